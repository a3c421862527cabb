"""The autoscaler: look at the replicas, decide how many there should be, make them come and go."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from core.errors import SaraiError
from core.local.machine import Machine
from core.pool.client import SkillClient
from core.scaling.policy import State, decide
from core.scaling.reading import DRAINS, SERVES, replica_load
from core.scaling.samples import Decision, Limits, Sample

if TYPE_CHECKING:
    from core.config import PoolConfig
    from core.scaling.replicas import Actuator, Running
    from core.scaling.waiting import WaitingCalls
    from core.skill import SkillSpec
    from skills import skills_pb2

_log = logging.getLogger(__name__)

LOOK_EVERY_S = 0.5
_ANSWERS_WITHIN_S = 1.0
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
    client: SkillClient | None
    since_s: float
    served: bool = False
    health: skills_pb2.HealthResp | None = None
    """Its answer at this look; None if there was none."""

    @property
    def drains(self) -> bool:
        """Whether it drains by itself, as something else has told it to."""
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
        self._spec, self._config, self._actuator, self._limits = spec, config, actuator, limits
        self._waiting, self._dry_run = waiting, dry_run
        self._state = State()
        self._seen: dict[str, _Seen] = {}
        self._draining: set[str] = set()
        self._failed_starts = 0
        self._threads = ThreadPoolExecutor(16, thread_name_prefix="sarai-load")

    def run(self, tell: Callable[[Step], None], stop: Callable[[float], bool]) -> None:
        """Scale until told to stop.

        Args:
            tell: Takes each step.
            stop: Waits for some seconds; returns whether to stop.
        """
        try:
            while True:
                begin_s = time.monotonic()
                try:
                    tell(self.look())
                except SaraiError as error:  # the container engine restarts, for example: no data, so nothing changes
                    _log.warning("nothing changes: %s", error)
                if stop(max(0.0, begin_s + LOOK_EVERY_S - time.monotonic())):
                    return
        finally:
            self.close()

    def look(self) -> Step:
        """Look once, decide, and carry it out."""
        self._update()
        list(self._threads.map(self._ask, self._seen.values()))
        sample = self._sample()
        there = sample.there
        self._state, decision = decide(self._state, sample, self._with_memory())
        if decision.wanted > there:
            if not self._dry_run:
                self._actuator.start(decision.wanted - there)
            return Step(event="start", there=there, decision=decision)
        if decision.wanted < there and (idlest := self._idlest(there - decision.wanted)):
            for each in idlest:
                self._drain(each)
            return Step(
                event="drain", there=there, decision=decision, names=tuple(each.running.name for each in idlest)
            )
        return Step(event="hold", there=there, decision=decision)

    def close(self) -> None:
        """Release everything; the replicas stay."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for each in self._seen.values():
            if each.client:
                each.client.close()
        self._seen.clear()
        self._actuator.close()

    # --- what there is ---

    def _update(self) -> None:
        now, there = time.monotonic(), {each.id: each for each in self._actuator.replicas()}
        for id_, seen in list(self._seen.items()):
            if id_ not in there:
                if not seen.served and id_ not in self._draining:
                    self._failed_starts += 1
                if seen.client:
                    seen.client.close()
                del self._seen[id_]
                self._draining.discard(id_)
        for id_, running in there.items():
            seen = self._seen.setdefault(id_, _Seen(running, None, now))
            seen.running = running
            if seen.client is None and running.target:
                seen.client = SkillClient.at(self._spec, running.target, self._config)
            if not seen.served and now - seen.since_s > self._config.startup_timeout_s and id_ not in self._draining:
                _log.warning("%s was not SERVING in time", running.name)
                self._failed_starts += 1
                self._drain(seen)

    def _ask(self, seen: _Seen) -> None:
        seen.health = None
        if seen.client is None:
            return
        try:
            seen.health = seen.client.Health(timeout=_ANSWERS_WITHIN_S)
        except SaraiError as error:
            _log.debug("%s does not answer: %s", seen.running.name, error)
            return
        seen.served = seen.served or seen.health.status in SERVES

    def _sample(self) -> Sample:
        ours = [seen for id_, seen in self._seen.items() if id_ not in self._draining and not seen.drains]
        waiting = self._waiting.total() if self._waiting else None
        return Sample(
            at_s=time.monotonic(),
            replicas=tuple(
                replica_load(seen.running.id, seen.health) for seen in ours if seen.served and seen.health is not None
            ),
            silent=sum(seen.served and seen.health is None for seen in ours),
            starting=sum(not seen.served for seen in ours) + self._actuator.starting,
            failed_starts=self._failed_starts + self._actuator.failed_starts,
            waiting_calls=waiting.calls if waiting else 0,
            waiting_work_s=waiting.work_s if waiting else 0.0,
        )

    def _with_memory(self) -> Limits:
        """Return the limits with the memory of the replicas that are there, and of those that would fit in the rest."""
        sizes = [int(seen.health.ram_mb * 1e6) for seen in self._seen.values() if seen.health]
        if not (largest := max(sizes, default=0)):
            return self._limits
        free = int(Machine.here().memory_bytes * (1 - _SPARE_MEMORY))
        # Those that start have not taken theirs yet.
        return replace(self._limits, memory_bytes=free + largest * len(sizes), replica_bytes=largest)

    # --- down ---

    def _idlest(self, count: int) -> list[_Seen]:
        """Return the replicas to drain: the idlest first, of two that are idle the one with the smaller cache."""
        ours = [seen for id_, seen in self._seen.items() if id_ not in self._draining and seen.health is not None]
        ours = [seen for seen in ours if not seen.running.last] or ours
        return sorted(ours, key=_idleness)[:count]

    def _drain(self, seen: _Seen) -> None:
        if not self._dry_run:
            self._draining.add(seen.running.id)
            self._actuator.drain(seen.running.id)


def _idleness(seen: _Seen) -> tuple[bool, float, float, int]:
    health = seen.health
    assert health is not None
    load = health.load
    return seen.served, load.work_ahead_s, -round(load.idle_s), health.engine.kv_cells_used
