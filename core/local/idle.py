"""A timer that fires when something has not been used for a while."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class IdleTimer:
    """Counts current uses, and calls `on_idle` after a period without any. Thread-safe.

    It has a thread only while it runs.

    Args:
        after_s: The period, seconds; 0 means never.
        on_idle: Called in the timer's thread. It must ask `claim` whether that still holds once no use can begin
            unnoticed.
    """

    def __init__(self, after_s: float, on_idle: Callable[[], None]) -> None:
        self._after_s = after_s
        self._on_idle = on_idle
        self._news = threading.Condition()
        self._uses = 0
        self._since_s = time.monotonic()
        self._thread: threading.Thread | None = None

    def begin(self) -> None:
        """Note that a use begins."""
        with self._news:
            self._uses += 1

    def end(self) -> None:
        """Note that a use has ended."""
        with self._news:
            self._uses -= 1
            self._since_s = time.monotonic()

    def touch(self) -> None:
        """Restart the period."""
        with self._news:
            self._since_s = time.monotonic()

    def start(self) -> None:
        """Start the timer. Idempotent."""
        with self._news:
            self._since_s = time.monotonic()
            if self._after_s and self._thread is None:
                self._thread = threading.Thread(target=self._run, name="sarai-idle", daemon=True)
                self._thread.start()

    def stop(self) -> None:
        """Stop the timer. Idempotent."""
        with self._news:
            self._thread = None
            self._news.notify_all()

    def claim(self) -> bool:
        """Return whether the timer runs and the period is over; if so, stop it."""
        with self._news:
            claimed = self._thread is not None and self._left_s() <= 0
            if claimed:
                self._thread = None
            return claimed

    def _run(self) -> None:
        while self._wait():
            self._on_idle()

    def _wait(self) -> bool:
        """Wait until the period is over. Return False if the timer was stopped."""
        with self._news:
            while self._thread is threading.current_thread():
                if (left_s := self._left_s()) <= 0:
                    return True
                self._news.wait(min(left_s, threading.TIMEOUT_MAX))
        return False

    def _left_s(self) -> float:
        # A use that ends during this wait restarts the period, which then ends later than the wait.
        return self._after_s if self._uses else self._since_s + self._after_s - time.monotonic()
