"""When there will be room: a promise made to callers who find the queue full."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable

from .costs import StepCosts
from .sequence import Sequence

LEAST_S = 0.1
_REMEMBERED = 64
_RECENT_S = 2.0
_NEWEST = 0.2  # weight of the newest answer in a mean


class WaitEstimate:
    """Learns how much of `max_tokens` answers turn out to use, how fast they are written, and so how long they take."""

    def __init__(self) -> None:
        self._shares: deque[float] = deque(maxlen=_REMEMBERED)
        self._whole_s = 0.0  # the mean time of an answer, from leaving the queue on
        # Lately: seconds of steps, and tokens that an answer grew by in them. Guesses that are right make it several a
        # step, and chunks of prompts make the steps longer.
        self._seconds = self._tokens = 0.0

    def stepped(self, seconds: float, tokens: int, answers: int) -> None:
        """A step has added so many tokens to so many answers."""
        keep = math.exp(-seconds / _RECENT_S)
        self._seconds = keep * self._seconds + seconds
        self._tokens = keep * self._tokens + (tokens / answers if answers else 0.0)

    def ended(self, written: float, max_tokens: int, seconds: float) -> None:
        """An answer has ended with so many tokens, and so long after it left the queue."""
        self._shares.append(written / max_tokens)
        self._whole_s += (seconds - self._whole_s) * (_NEWEST if self._whole_s else 1.0)

    def until_start_s(
        self, place: int, running: Iterable[Sequence], costs: StepCosts, n_batch: int, now: float
    ) -> float:
        """Seconds until the one at a place of the queue leaves it: 1 is the next, when the first running one ends."""
        remaining = self._remaining_s(running, costs, n_batch, now, self._mean_remaining)
        if not remaining:
            return LEAST_S
        rounds, at = divmod(place - 1, len(remaining))
        return max(LEAST_S, remaining[at] + rounds * (self._whole_s or remaining[-1]))

    def at_least_s(self, place: int, running: Iterable[Sequence], costs: StepCosts, n_batch: int, now: float) -> float:
        """The same if each answer were as short as any of late; 0 where nothing says how short that may be."""
        remaining = self._remaining_s(running, costs, n_batch, now, self._shortest_remaining)
        return remaining[min(place, len(remaining)) - 1] if remaining else 0.0

    def _remaining_s(
        self, running: Iterable[Sequence], costs: StepCosts, n_batch: int, now: float,
        remaining_of: Callable[[float], float],
    ) -> list[float]:  # fmt: skip
        """How long each of the running sequences still takes, the shortest first."""
        sequences = list(running)
        token_s = self._seconds / self._tokens if self._tokens else costs.ms(max(1, len(sequences))) / 1000
        remaining = []
        for s in sequences:
            most = s.request.max_tokens
            reads_s = costs.ms(min(s.pending, n_batch)) / 1000 if s.pending > 1 else 0.0
            remaining_s = max(1.0, most * remaining_of(s.n_answered / most)) * token_s + reads_s
            remaining.append(min(remaining_s, max(0.0, (s.request.deadline or math.inf) - now)))
        return sorted(remaining)

    def _mean_remaining(self, done: float) -> float:
        """What is still to be written: the mean over earlier answers that were longer than this one is by now."""
        longer = [share - done for share in self._shares if share > done]
        return sum(longer) / len(longer) if longer else 1.0 - done

    def _shortest_remaining(self, done: float) -> float:
        return min((share - done for share in self._shares if share > done), default=0.0)
