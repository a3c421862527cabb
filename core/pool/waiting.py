"""The calls that wait for a replica: whose turn it is, and how much may be tried again."""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Iterator

from core.pool.records import Call


class WaitingLine:
    """First come, first served among the calls of a caller; the callers take turns.

    So a caller with a hundred calls does not keep one with a single call waiting for all of them.
    """

    def __init__(self) -> None:
        self._of: OrderedDict[str, deque[Call]] = OrderedDict()
        self._len = 0

    def __len__(self) -> int:
        return self._len

    def __iter__(self) -> Iterator[Call]:
        """The calls in the order of their turns: every caller's first, then every caller's second, and so on."""
        lines = [list(line) for line in self._of.values()]
        for place in range(max(map(len, lines), default=0)):
            yield from (line[place] for line in lines if place < len(line))

    def add(self, call: Call) -> None:
        """Put a call at the end of its caller's line."""
        self._of.setdefault(call.caller, deque()).append(call)
        self._len += 1

    def serve(self, call: Call) -> None:
        """Take out a call that has its turn; its caller's next one comes after those of all others."""
        if self.remove(call) and call.caller in self._of:
            self._of.move_to_end(call.caller)

    def remove(self, call: Call) -> bool:
        """Take out a call. Returns whether it was there."""
        line = self._of.get(call.caller)
        if line is None or call not in line:
            return False
        line.remove(call)
        self._len -= 1
        if not line:
            del self._of[call.caller]
        return True


RATIO = 0.2
"""Retries that each call adds to the budget."""
FLOOR = 3.0
"""Retries that there are at the beginning."""
MOST = 100.0
"""Retries that are saved up at most."""
TRICKLE_S = 1.0
"""With nothing left, one retry goes out in this time, seconds."""


class RetryBudget:
    """How much may be tried again: a fifth of the calls, and three (Envoy's figures).

    So that an outage is not made worse by those who wait for its end.

    Each call adds a fifth of a retry, up to a hundred retries; each retry takes one. When nothing is left, one a second
    goes through all the same: a call whose replica has died is never given up while another one lives.
    """

    def __init__(self) -> None:
        self._credit = FLOOR
        self._last_s = -math.inf

    def call(self) -> None:
        """Add the share of a call that begins."""
        self._credit = min(MOST, self._credit + RATIO)

    @property
    def has_credit(self) -> bool:
        """Whether a further attempt can go at once."""
        return self._credit >= 1.0

    def spend(self, now: float, most_s: float = math.inf) -> float:
        """Take a further attempt. Returns how long it has to wait, seconds: 0 where there is credit.

        Whoever cannot wait that long, but `most_s` seconds, leaves the place to others.
        """
        if self._credit >= 1.0:
            self._credit -= 1.0
            return 0.0
        wait_s = max(0.0, self._last_s + TRICKLE_S - now)
        if wait_s <= most_s:
            self._last_s = now + wait_s
        return wait_s
