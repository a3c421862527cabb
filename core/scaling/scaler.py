"""The autoscaler: look at the replicas, decide how many there should be, make them come and go."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from core.local.machine import Machine
from core.scaling.looking import keep_looking
from core.scaling.policy import State, decide
from core.scaling.reading import DRAINS, SERVES, HealthReader, replica_load
from core.scaling.samples import Decision, Limits, Sample
from core.scaling.waiting import WaitingCalls

if TYPE_CHECKING:
    from core.config import PoolConfig
    from core.scaling.replicas import Actuator, Running
    from core.skill import SkillSpec
    from skills import skills_pb2

_log = logging.getLogger(__name__)

_SPARE_MEMORY = 0.1
"""Share of the available memory that is left to others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What was decided at one look, and done."""

    event: Literal["start", "drain", "hold"]
    there: int
    """Replicas that serve or start, before it."""
    decision: Decision
    names: tuple[str, ...] = ()
    """The replicas that drain."""


@dataclass(slots=True)
class _Seen:
    """A replica that is there."""

    running: Running
    since_s: float
    started: bool = False
    """Whether its start is over: it has served, or drains already as something else has told it to."""
    health: skills_pb2.HealthResp | None = None
    """Its answer at this look; None if there was none."""

    @property
    def drains(self) -> bool:
        """Whether it goes away by itself."""
        return self.health is not None and self.health.status == DRAINS


class Scaler:
    """Scales the replicas of a skill on this machine.

    Args:
        spec: The skill.
        config: The settings.
        actuator: Makes replicas come and go.
        limits: What to keep to; the memory is added here.
        waiting: Calls that no replica sees.
        dry_run: Whether to decide only.
    """

    def __init__(
        self,
        spec: SkillSpec,
        config: PoolConfig,
        actuator: Actuator,
        limits: Limits,
        *,
        waiting: WaitingCalls | None = None,
        dry_run: bool = False,
    ) -> None:
        self._config, self._actuator, self._limits, self._dry_run = config, actuator, limits, dry_run
        self._waiting = waiting or WaitingCalls()
        self._reader = HealthReader(spec)
        self._state = State()
        self._seen: dict[str, _Seen] = {}
        self._failed_starts = 0

    def run(self, tell: Callable[[Step], None], stop: Callable[[float], bool]) -> None:
        """Scale until told to stop.

        Args:
            tell: Takes each step.
            stop: Waits for some seconds; returns whether to stop.
        """
        try:
            keep_looking(self.look, tell, stop)
        finally:
            self.close()

    def look(self) -> Step:
        """Look once, decide, and carry it out."""
        self._update()
        sample = self._sample()
        state, self._state = self._state, State()  # begins anew if this fails: its memory may be why
        self._state, decision = decide(state, sample, self._with_memory(sample))
        more = decision.wanted - sample.there
        if more > 0:
            if not self._dry_run:
                self._actuator.start(more)
            return Step(event="start", there=sample.there, decision=decision)
        idlest = self._idlest(-more)
        for each in idlest:
            self._drain(each)
        names = tuple(each.running.name for each in idlest)
        return Step(event="drain" if idlest else "hold", there=sample.there, decision=decision, names=names)

    def close(self) -> None:
        """Release everything; the replicas stay."""
        self._reader.close()
        self._actuator.close()

    # --- what there is ---

    def _update(self) -> None:
        now, there = time.monotonic(), {each.id: each for each in self._actuator.replicas()}
        for id_ in self._seen.keys() - there.keys():
            self._failed_starts += not self._seen.pop(id_).started
        answers = self._reader.ask({each.target for each in there.values() if each.target})
        for id_, running in there.items():
            seen = self._seen.setdefault(id_, _Seen(running, now))
            seen.running, seen.health = running, answers.get(running.target)
            seen.started |= seen.health is not None and seen.health.status in (*SERVES, DRAINS)
            if not seen.started and now - seen.since_s > self._config.startup_timeout_s:
                _log.warning("%s was not SERVING in time", running.name)
                self._failed_starts += 1
                self._drain(seen)

    def _sample(self) -> Sample:
        ours = [seen for seen in self._seen.values() if not seen.drains]
        started = [seen for seen in ours if seen.started]
        loads = [replica_load(seen.running.id, seen.health) for seen in started if seen.health is not None]
        waiting = self._waiting.total()
        return Sample(
            at_s=time.monotonic(),
            replicas=tuple(loads),
            silent=len(started) - len(loads),
            starting=len(ours) - len(started) + self._actuator.starting,
            failed_starts=self._failed_starts + self._actuator.failed_starts,
            waiting_calls=waiting.calls,
            waiting_work_s=waiting.work_s,
        )

    def _with_memory(self, sample: Sample) -> Limits:
        """Return the limits with the memory of the replicas that are there, and of those that would fit in the rest."""
        sizes = [int(seen.health.ram_mb * 1e6) for seen in self._seen.values() if seen.health]
        if not (largest := max(sizes, default=0)):
            return self._limits
        free = int(Machine.here().memory_bytes * (1 - _SPARE_MEMORY))
        # What those that start or are silent have taken is not known; in any case there was room for them.
        memory = max(free + largest * len(sizes), largest * sample.there)
        return replace(self._limits, memory_bytes=memory, replica_bytes=largest)

    # --- down ---

    def _idlest(self, count: int) -> list[_Seen]:
        """Return the replicas to drain: the idlest first, of two that are idle the one with the smaller cache."""
        ours = [seen for seen in self._seen.values() if seen.health is not None and not seen.drains]
        ours = [seen for seen in ours if not seen.running.last] or ours
        return sorted(ours, key=_idleness)[:count]

    def _drain(self, seen: _Seen) -> None:
        # One that is still there at the next look could not be told to go, and counts again.
        del self._seen[seen.running.id]
        if not self._dry_run:
            self._actuator.drain(seen.running.id)


def _idleness(seen: _Seen) -> tuple[bool, float, float, int]:
    health = seen.health
    assert health is not None
    load = health.load
    return seen.started, load.work_ahead_s, -round(load.idle_s), health.engine.kv_cells_used
