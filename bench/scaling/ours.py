"""Our policy, as the simulation's scaler."""

from __future__ import annotations

from bench.scaling.world import World
from core.scaling.policy import State, decide
from core.scaling.samples import Limits


class Ours:
    """`core.scaling.policy.decide`, twice a second."""

    tick_s = 0.5

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits(low=1, high=10_000)
        self.state = State()
        self.whys: list[str] = []

    def wanted(self, world: World) -> int:
        """Return what the policy wants."""
        self.state, decision = decide(self.state, world.sample(), self.limits)
        world.seen_load = decision.load
        self.whys.append(decision.why)
        return decision.wanted
