"""Calls that wait for a replica, and the budget of retries."""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Iterator

from core.pool.records import Call


class WaitingLine:
    """A queue that is first come, first served for each caller; callers take turns.

    So a caller with a single call does not have to wait for all calls of one with a hundred.
    """

    def __init__(self) -> None:
        self._of: OrderedDict[str, deque[Call]] = OrderedDict()
        self._len = 0

    def __len__(self) -> int:
        return self._len

    def __iter__(self) -> Iterator[Call]:
        """Yield the calls in order of their turns: every caller's first, then every caller's second, and so on."""
        lines = [list(line) for line in self._of.values()]
        for place in range(max(map(len, lines), default=0)):
            yield from (line[place] for line in lines if place < len(line))

    def add(self, call: Call) -> None:
        """Append a call to its caller's line."""
        self._of.setdefault(call.caller, deque()).append(call)
        self._len += 1

    def serve(self, call: Call) -> None:
        """Remove a call whose turn it is; its caller's next one comes after those of all others."""
        if self.remove(call) and call.caller in self._of:
            self._of.move_to_end(call.caller)

    def remove(self, call: Call) -> bool:
        """Remove a call; return whether it was there."""
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
"""The initial budget."""
MOST = 100.0
"""The largest budget."""
TRICKLE_S = 1.0
"""With an empty budget, one retry is allowed in this time, in seconds."""


class RetryBudget:
    """Limits retries to a fifth of the calls plus three (Envoy's figures), so that they do not worsen an outage.

    Each call adds a fifth of a retry, up to a hundred retries; each retry takes one. If none is left, one a second is
    still allowed: a call whose replica has died is never given up while another replica lives.
    """

    def __init__(self) -> None:
        self._credit = FLOOR
        self._last_s = -math.inf

    def call(self) -> None:
        """Add the share of a new call."""
        self._credit = min(MOST, self._credit + RATIO)

    @property
    def has_credit(self) -> bool:
        """Whether a further attempt is allowed at once."""
        return self._credit >= 1.0

    def spend(self, now: float, most_s: float = math.inf) -> float:
        """Spend an attempt; return how long it must wait, in seconds: 0 if there is credit.

        A call that can only wait for `most_s` leaves the credit to others if that is too short.
        """
        if self._credit >= 1.0:
            self._credit -= 1.0
            return 0.0
        wait_s = max(0.0, self._last_s + TRICKLE_S - now)
        if wait_s <= most_s:
            self._last_s = now + wait_s
        return wait_s
