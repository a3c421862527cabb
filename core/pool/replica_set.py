"""The replicas of one skill, for any thread: reports events to the state and carries out its actions."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING

from core.pool import events
from core.pool.backend import AddressReplica
from core.pool.images import SentImages
from core.pool.records import Replica
from core.pool.reports import WaitingReports
from core.pool.state import PoolState
from core.pool.status import ReplicaStatus, SkillStatus
from core.pool.watcher import Look, Watcher
from core.rpc.faults import HeldInterrupts

if TYPE_CHECKING:
    from core.config import PoolConfig
    from core.pool.backend import Backend, Origin
    from core.pool.events import Action, Event
    from core.pool.status import CallStats
    from core.skill import SkillSpec

_log = logging.getLogger(__name__)


class ReplicaSet:
    """The replicas of a skill, and its running and waiting calls. Shared by sync and async clients.

    Args:
        spec: The skill.
        config: The pool's settings.
        backends: The initial backends.
        look: Resolves the current targets; None if they do not change.
    """

    def __init__(
        self, spec: SkillSpec, config: PoolConfig, backends: Iterable[Backend], look: Look | None = None
    ) -> None:
        self.spec = spec
        self.config = config
        self._backends = {backend.target: backend for backend in backends}
        self.origin: Origin = next(iter(self._backends.values())).origin
        """The source of the addresses, the same for all."""
        self.images = SentImages()
        """The images that were sent to any of the replicas."""
        scaler, local = config.scaler_of(spec), self.origin == "embedded"
        self._reports = WaitingReports(spec, scaler) if scaler is not None else None
        # An autoscaler brings them, if there are none just now.
        known = self.origin != "address" or scaler is not None
        replicas = [Replica(target, known=known, starts_itself=local) for target in self._backends]
        self._state = PoolState(spec.name, config, replicas, changing=look is not None)
        # Reentrant, as a signal handler may run in the same thread at any point.
        self._lock = threading.RLock()
        self._events: deque[Event] = deque()
        self._working = False
        here = self.origin != "address"  # names are not asked for that often
        self._watcher = Watcher(
            spec, tell=self.tell, due_s=lambda: self._state.due_s, is_watched=self._is_watched, look=look,
            looks_often=lambda: here and self.outstanding > 0,
        )  # fmt: skip

    # --- events ---

    def tell(self, event: Event) -> None:
        """Report an event and carry out the resulting actions. Takes microseconds."""
        self._events.append(event)
        with HeldInterrupts(), self._lock:
            if self._working:
                return  # another event is being processed: this one comes after it
            self._working = True
            try:
                while self._events:
                    for action in self._state.on(self._events.popleft(), time.monotonic()):
                        self._safely_do(action)
            finally:
                self._working = False
            if self._reports is not None:
                self._reports.note(len(self._state.line))
            self._watcher.wake_by(self._state.due_s)

    def tell_later(self, event: Event) -> None:
        """Take in an event later, at the next event or tick.

        For the garbage collector, which may run in the midst of any method, in the same thread: all that is done here
        is one append.
        """
        self._events.append(event)

    def _safely_do(self, action: Action) -> None:
        try:
            self._do(action)
        except Exception:  # noqa: BLE001  # as where no thread can be started: the other actions are other calls'
            _log.exception("skill %r: the pool failed to carry out %r", self.spec.name, action)

    def _do(self, action: Action) -> None:
        match action:
            case events.Begin(attempt):
                self.backend(attempt.replica).begin_use()
                if attempt.hedge and attempt.call.race is not None:
                    attempt.call.race(attempt)
                else:
                    attempt.call.wake()
            case events.End(attempt):
                self.backend(attempt.replica).end_use()
                if attempt.why_over:
                    attempt.cancel()
            case events.Fail(call):
                call.wake()
            case events.Prod(attempt):
                attempt.prod()
            case events.Probe(attempt, since_s):
                self._watcher.probe(attempt, since_s)
            case events.Watch(replica):
                self._watcher.watch(replica)
            case events.Doubt(replica):
                self.backend(replica).lost = True

    # --- status ---

    def backend(self, replica: Replica) -> Backend:
        """Return a replica's backend; a plain address for a target that was added later."""
        return self._backends.get(replica.target) or AddressReplica(replica.target, self.origin)

    def _is_watched(self, replica: Replica) -> bool:
        """Return whether its health matters: a single replica is watched only while it is unavailable."""
        return not replica.leaving and (replica.down or self._state.roster.has_choice)

    def make_ready(self) -> None:
        """Start local processes; raise the errors of `Backend.ready`."""
        for backend in self._backends.values():
            backend.ready(math.inf)  # a start has its own timeout

    @property
    def replicas(self) -> tuple[Replica, ...]:
        """The current replicas."""
        return tuple(self._state.roster.replicas)

    @property
    def target(self) -> str:
        """The comma-separated addresses."""
        return self._state.roster.target

    @property
    def stats(self) -> CallStats:
        """The statistics of the calls."""
        return self._state.stats

    @property
    def lost(self) -> bool:
        """Whether no replica answers any more."""
        return all(replica.down for replica in self.replicas)

    @property
    def outstanding(self) -> int:
        """Number of calls that run or wait."""
        with self._lock:
            return self._state.outstanding

    @property
    def waiting(self) -> int:
        """Number of calls that wait for a replica."""
        return len(self._state.line)

    def status(self) -> SkillStatus:
        """Return the status of the replicas."""
        with self._lock:
            return SkillStatus(
                skill=self.spec.name,
                origin=self.origin,
                waiting=self.waiting,
                calls=self.stats.calls,
                attempts=self.stats.attempts,
                failovers=self.stats.failovers,
                replicas=tuple(map(self._status_of, self.replicas)),
            )

    def _status_of(self, replica: Replica) -> ReplicaStatus:
        backend = self.backend(replica)
        stopped = replica.starts_itself and backend.pid is None
        return ReplicaStatus(
            target=replica.target,
            state="stopped" if stopped else replica.condition(time.monotonic()),
            why=replica.why_down,
            outstanding=len(replica.attempts),
            calls=replica.calls,
            failures=replica.failures,
            pid=backend.pid,
            restarts=backend.restarts,
            log=backend.log,
        )

    # --- closing ---

    def close(self) -> None:
        """Close the pool: refuse new calls and fail those that wait. Idempotent."""
        self.tell(events.Closed())
        self._watcher.close()
        for backend in self._backends.values():
            backend.close()
