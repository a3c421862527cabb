"""What goes wrong in a run, and what comes of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from bench.scaling.loads import Floats, Load
from bench.scaling.replicas import Request


@dataclass(frozen=True, kw_only=True)
class Faults:
    """What goes wrong."""

    stale_s: float = 0.0
    """Age of the data that the scaler gets."""
    death_every_s: float = math.inf
    """A replica dies this often, on average."""
    failed_starts: float = 0.0
    """Share of starts that fail."""
    slow: bool = False
    """Every second replica is half as fast."""
    reset_every_s: float = math.inf
    """The counters of a replica begin at zero this often."""


@dataclass
class Outcome:
    """What a run was like."""

    load: Load
    requests: list[Request]
    cost_s: float
    """Replica-seconds, from the moment that each was asked for until it was gone."""
    starts: int
    lives_s: list[float]
    """How long each replica that was drained had lived."""
    ticks: Floats
    """Columns: time, replicas there (serving and starting), serving, offered load as the scaler sees it."""
    whys: list[str] = field(default_factory=list)

    def waits(self, since_s: float = 0.0) -> Floats:
        """Return the waits of all requests after that time; infinite for one that was never read."""
        waits = [each.wait_s for each in self.requests if each.at_s >= since_s]
        return np.array([math.inf if math.isnan(wait) else wait for wait in waits])

    def kept(self, target_s: float = 2.0) -> float:
        """Return the share of requests that waited no longer."""
        return float((self.waits() <= target_s).mean())

    @property
    def lost(self) -> int:
        """Requests without an answer."""
        return sum(math.isnan(each.end_s) for each in self.requests)

    @property
    def relative_cost(self) -> float:
        """Replica-seconds for each second of work."""
        return self.cost_s / float(self.load.work_s.sum())
