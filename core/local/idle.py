"""Tells when something has not been used for a while."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class IdleTimer:
    """Counts the uses that are under way, and speaks when there has been none for so long. Thread-safe.

    It has a thread while it runs, and none before and after.

    Args:
        after_s: how long, seconds; 0: it never speaks.
        on_idle: called in the timer's thread. It asks `claim` whether that still holds, once no use can begin unseen.
    """

    def __init__(self, after_s: float, on_idle: Callable[[], None]) -> None:
        self._after_s = after_s
        self._on_idle = on_idle
        self._news = threading.Condition()
        self._uses = 0
        self._since_s = time.monotonic()
        self._thread: threading.Thread | None = None

    def begin(self) -> None:
        """A use begins."""
        with self._news:
            self._uses += 1

    def end(self) -> None:
        """A use is over."""
        with self._news:
            self._uses -= 1
            self._since_s = time.monotonic()

    def touch(self) -> None:
        """Something was used just now."""
        with self._news:
            self._since_s = time.monotonic()

    def start(self) -> None:
        """Runs from now on. Again does nothing."""
        with self._news:
            self._since_s = time.monotonic()
            if self._after_s and self._thread is None:
                self._thread = threading.Thread(target=self._run, name="sarai-idle", daemon=True)
                self._thread.start()

    def stop(self) -> None:
        """Does not run any more."""
        with self._news:
            self._thread = None
            self._news.notify_all()

    def claim(self) -> bool:
        """Whether it runs and nothing is in use, or was of late. If so, it does not run any more."""
        with self._news:
            claimed = self._thread is not None and self._left_s() <= 0
            if claimed:
                self._thread = None
            return claimed

    def _run(self) -> None:
        while self._wait():
            self._on_idle()

    def _wait(self) -> bool:
        """Until it is time to speak: True; or the timer does not run any more."""
        with self._news:
            while self._thread is threading.current_thread():
                if (left_s := self._left_s()) <= 0:
                    return True
                self._news.wait(min(left_s, threading.TIMEOUT_MAX))
        return False

    def _left_s(self) -> float:
        # A use that ends while this is waited for is idle for less than that, so it is looked at in time.
        return self._after_s if self._uses else self._since_s + self._after_s - time.monotonic()
