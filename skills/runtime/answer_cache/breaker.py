"""Whether a store is asked: not any more after a few failures in a row, until it answers a probe."""

from __future__ import annotations

OPENS_AFTER = 3
FIRST_PAUSE_S = 0.5
MOST_PAUSE_S = 30.0
_STABLE_S = 60.0


class Breaker:
    """Counts failures and says when to probe; it has no clock and no network. It begins open: nothing is known yet."""

    def __init__(self) -> None:
        self.reason = "not connected yet"
        """Why the store is passed over; empty while it is asked."""
        self._failures, self._pause_s, self._closed_at_s = 0, FIRST_PAUSE_S, 0.0

    def succeeded(self) -> None:
        """Note a reply in time."""
        self._failures = 0

    def failed(self, reason: str, now_s: float) -> bool:
        """Note a reply that is late, or an error; return whether this opens it."""
        if self.reason:
            return False
        self._failures += 1
        if self._failures < OPENS_AFTER:
            return False
        self.reason = reason
        if now_s - self._closed_at_s > _STABLE_S:  # else it is unsteady, and is asked less and less
            self._pause_s = FIRST_PAUSE_S
        return True

    def next_pause_s(self) -> float:
        """Return how long to wait until the next probe: longer each time."""
        pause_s = self._pause_s
        self._pause_s = min(2 * pause_s, MOST_PAUSE_S)
        return pause_s

    def close(self, now_s: float) -> None:
        """Ask the store again, as it has answered a probe."""
        self.reason, self._failures, self._closed_at_s = "", 0, now_s
