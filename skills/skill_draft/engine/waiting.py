"""When there will be room: a promise made to callers who find the queue full."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable

from .costs import StepCosts
from .sequence import Sequence

LEAST_S = 0.1
_REMEMBERED = 64
_RECENT_S = 2.0


class WaitEstimate:
    """Learns how much of `max_tokens` answers turn out to use, how fast they are written, and so how long they take."""

    def __init__(self) -> None:
        self._shares: deque[float] = deque(maxlen=_REMEMBERED)
        # Lately: seconds of steps, and tokens that an answer grew by in them. Guesses that are right make it several a
        # step, and chunks of prompts make the steps longer.
        self._seconds = self._tokens = 0.0

    def stepped(self, seconds: float, tokens: int, answers: int) -> None:
        """A step has added so many tokens to so many answers."""
        keep = math.exp(-seconds / _RECENT_S)
        self._seconds = keep * self._seconds + seconds
        self._tokens = keep * self._tokens + (tokens / answers if answers else 0.0)

    def ended(self, written: float, max_tokens: int) -> None:
        """An answer has ended with so many tokens."""
        self._shares.append(written / max_tokens)

    def until_room_s(self, running: Iterable[Sequence], costs: StepCosts, n_batch: int) -> float:
        """Seconds until the first of the running sequences ends, and the queue moves on."""
        sequences = list(running)
        token_s = self._seconds / self._tokens if self._tokens else costs.ms(max(1, len(sequences))) / 1000
        rests = [
            self._rest_tokens(s) * token_s + (costs.ms(min(s.pending, n_batch)) / 1000 if s.pending > 1 else 0.0)
            for s in sequences
        ]
        return max(LEAST_S, min(rests, default=LEAST_S))

    def _rest_tokens(self, sequence: Sequence) -> float:
        """What is still to be written: the mean over earlier answers that were longer than this one is by now."""
        most = sequence.request.max_tokens
        done = sequence.n_answered / most
        longer = [share - done for share in self._shares if share > done]
        return max(1.0, most * (sum(longer) / len(longer) if longer else 1.0 - done))
