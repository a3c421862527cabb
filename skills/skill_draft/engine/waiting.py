"""Estimate when there will be room, for callers who find the queue full."""

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
    """Learns how much of `max_tokens` answers use and how fast they are written, and so how long they take."""

    def __init__(self) -> None:
        self._shares: deque[float] = deque(maxlen=_REMEMBERED)
        self._whole_s = 0.0  # mean time of an answer after leaving the queue
        # Decaying sums: seconds of steps, and tokens added to an answer in them. Accepted speculative tokens make it
        # several tokens a step, and prefill chunks make steps longer.
        self._seconds = self._tokens = 0.0

    def stepped(self, seconds: float, tokens: int, answers: int) -> None:
        """Record that a step of `seconds` added `tokens` tokens in total to `answers` answers."""
        keep = math.exp(-seconds / _RECENT_S)
        self._seconds = keep * self._seconds + seconds
        self._tokens = keep * self._tokens + (tokens / answers if answers else 0.0)

    def ended(self, written: float, max_tokens: int, seconds: float) -> None:
        """Record that an answer ended with `written` of `max_tokens` tokens, `seconds` after it left the queue."""
        self._shares.append(written / max_tokens)
        self._whole_s += (seconds - self._whole_s) * (_NEWEST if self._whole_s else 1.0)

    def until_start_s(
        self, place: int, running: Iterable[Sequence], costs: StepCosts, n_batch: int, now: float
    ) -> float:
        """Return the seconds until the call at `place` leaves the queue; place 1 leaves when a running answer ends."""
        remaining = self._remaining_s(running, costs, n_batch, now, self._mean_remaining)
        if not remaining:
            return LEAST_S
        rounds, at = divmod(place - 1, len(remaining))
        return max(LEAST_S, remaining[at] + rounds * (self._whole_s or remaining[-1]))

    def at_least_s(self, place: int, running: Iterable[Sequence], costs: StepCosts, n_batch: int, now: float) -> float:
        """Return the same if every answer were as short as the shortest recent one; 0 if there is none."""
        remaining = self._remaining_s(running, costs, n_batch, now, self._shortest_remaining)
        return remaining[min(place, len(remaining)) - 1] if remaining else 0.0

    def _remaining_s(
        self, running: Iterable[Sequence], costs: StepCosts, n_batch: int, now: float,
        remaining_of: Callable[[float], float],
    ) -> list[float]:  # fmt: skip
        """Return the remaining seconds of each running sequence, ascending."""
        sequences = list(running)
        token_s = self._seconds / self._tokens if self._tokens else costs.ms(max(1, len(sequences))) / 1000
        remaining = []
        for s in sequences:
            most = s.request.max_tokens
            reads_s = costs.ms(min(s.pending, n_batch)) / 1000 if s.pending > 1 else 0.0
            remaining_s = max(1.0, most * remaining_of(s.n_answered / most)) * token_s + reads_s
            remaining.append(min(remaining_s, max(0.0, (s.request.deadline or math.inf) - now)))
        return sorted(remaining)

    def expected_tokens(self, max_tokens: int, answered: int = 0) -> float:
        """Return how many tokens an answer that has `answered` tokens is expected to still get, at least 1."""
        return max(1.0, max_tokens * self._mean_remaining(answered / max_tokens))

    def _mean_remaining(self, done: float) -> float:
        """Return the share still to be written: the mean of recent answers longer than this one is now."""
        longer = [share - done for share in self._shares if share > done]
        return sum(longer) / len(longer) if longer else 1.0 - done

    def _shortest_remaining(self, done: float) -> float:
        return min((share - done for share in self._shares if share > done), default=0.0)
