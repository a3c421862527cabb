"""The latest decision about the number of replicas, for all who ask or listen."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

from core.scaling.samples import Decision


class Wanted:
    """The latest decision. Thread-safe."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._decision: Decision | None = None
        self._closed = False

    def publish(self, decision: Decision) -> None:
        """Replace the decision."""
        with self._changed:
            self._decision = decision
            self._changed.notify_all()

    def close(self) -> None:
        """End what `is_active` yields."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def wake(self) -> None:
        """Have `is_active` look at `goes_on`."""
        with self._changed:
            self._changed.notify_all()

    def latest(self) -> Decision | None:
        """Return the decision, None before the first one."""
        return self._decision

    def is_active(self, goes_on: Callable[[], bool]) -> Iterator[bool]:
        """Yield whether any replica is wanted: at once, and whenever it changes, for as long as `goes_on`."""
        told: bool | None = None
        while True:
            with self._changed:
                while goes_on() and not self._closed and (self._decision is None or self._active() is told):
                    self._changed.wait()
                if self._closed or not goes_on():
                    return
                told = self._active()
            yield told

    def _active(self) -> bool:
        return self._decision is not None and self._decision.wanted > 0
