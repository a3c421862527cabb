"""When there will be room: a promise made to callers who find the queue full."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from .costs import StepCosts
from .sequence import Sequence

LEAST_S = 0.1
_REMEMBERED = 64


class WaitEstimate:
    """Learns how much of `max_tokens` answers turn out to use, and how long the running ones will go on."""

    def __init__(self) -> None:
        self._shares: deque[float] = deque(maxlen=_REMEMBERED)

    def ended(self, written: float, max_tokens: int) -> None:
        """An answer has ended with so many tokens."""
        self._shares.append(written / max_tokens)

    def until_room_s(self, running: Iterable[Sequence], costs: StepCosts, n_batch: int) -> float:
        """Seconds until the first of the running sequences ends, and the queue moves on."""
        sequences = list(running)
        step_s = costs.ms(max(1, len(sequences))) / 1000
        rests = [
            self._rest_tokens(s) * step_s + (costs.ms(min(s.pending, n_batch)) / 1000 if s.pending > 1 else 0.0)
            for s in sequences
        ]
        return max(LEAST_S, min(rests, default=LEAST_S))

    def _rest_tokens(self, sequence: Sequence) -> float:
        """What is still to be written: the mean over earlier answers that were longer than this one is by now."""
        most = sequence.request.max_tokens
        done = sequence.n_answered / most
        longer = [share - done for share in self._shares if share > done]
        return max(1.0, most * (sum(longer) / len(longer) if longer else 1.0 - done))
