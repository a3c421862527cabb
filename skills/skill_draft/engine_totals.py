"""The counters of a server over all its engines: the death of one does not reset them."""

from __future__ import annotations

import dataclasses

from .engine.config import Load
from .engine.messages import Stats


class EngineTotals:
    """The figures of the current engine, and the totals of those before it."""

    def __init__(self) -> None:
        self.stats = Stats()
        """The figures of the current engine."""
        self._before = Stats()
        self._load = Load()

    def heard(self, stats: Stats) -> None:
        """Take the figures of the current engine."""
        self.stats, self._load = stats, stats.load

    def ended(self) -> None:
        """Keep the totals of the current engine, which has gone."""
        tried, right = self.lookup
        self._load = self.load  # what it has not finished is still ahead
        kept = Load(arrived_s=self._load.arrived_s, done_s=self._load.done_s)
        self._before = Stats(lookup_tokens=tried, lookup_accepted=right, load=kept)
        self._load = dataclasses.replace(self._load, arrived_s=0.0, done_s=0.0)
        self.stats = Stats()

    @property
    def lookup(self) -> tuple[int, int]:
        """How many lookup tokens were tried and accepted."""
        before, now = self._before, self.stats
        return before.lookup_tokens + now.lookup_tokens, before.lookup_accepted + now.lookup_accepted

    @property
    def load(self) -> Load:
        """The load, with its counters over all engines; until a new engine tells its own, what the last one left."""
        before = self._before.load
        return dataclasses.replace(
            self._load, arrived_s=before.arrived_s + self._load.arrived_s, done_s=before.done_s + self._load.done_s
        )
