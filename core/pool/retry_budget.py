"""How much may be tried again, so that an outage is not made worse by those who wait for its end."""

from __future__ import annotations

import math

RATIO = 0.2
FLOOR = 3.0
MOST = 100.0
TRICKLE_S = 1.0


class RetryBudget:
    """A fifth of the calls, and three (Envoy's figures).

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
