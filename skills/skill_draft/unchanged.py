"""How long something has stayed as it is."""

from __future__ import annotations


class Unchanged:
    """Measure how long a value has not changed."""

    def __init__(self) -> None:
        self._seen: object = None
        self._lasted_s = 0.0

    def for_s(self, value: object, passed_s: float) -> float:
        """Return for how many seconds the value has been the same; `passed_s` is the time since the last call."""
        self._lasted_s = self._lasted_s + passed_s if value == self._seen else 0.0
        self._seen = value
        return self._lasted_s
