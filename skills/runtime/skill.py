"""The base class of every skill's server: its life, its health, its statuses and its metrics."""

from __future__ import annotations

import enum
import logging
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from operator import attrgetter
from typing import TYPE_CHECKING

import grpc

from skills import skills_pb2
from skills.wire import Feature, Reason

from .limits import Limits
from .resources import CpuMeter, MemoryMeter, process_age_s, usable_cpus
from .settings import ServerSettings, WorkerSettings, variable
from .status import abort
from .work import Work

if TYPE_CHECKING:
    from .metrics import Metrics, Reading

Context = grpc.aio.ServicerContext[object, object]


class StartError(Exception):
    """The server cannot start; the message is for its user."""


class Status(enum.StrEnum):
    """A replica's status, as reported by Health."""

    LOADING = "LOADING"
    SERVING = "SERVING"
    RECOVERING = "RECOVERING"
    """A process that it needs is being replaced; calls wait for that."""
    DRAINING = "DRAINING"
    NOT_SERVING = "NOT_SERVING"


class BaseSkill:
    """The common part of all skills' servers; `skills.runtime.serving.serve` runs it.

    A subclass says which gRPC `services` it has, each with a method Health, adds its servicers in `register`, and
    handles each call inside `async with self.call(context)`. If its work has to be bounded here, it is a `WorkerSkill`.

    Args:
        settings: how it runs.
        name: the skill's name.
        version: its version, for Health.
    """

    services: Sequence[str] = ()
    features: Sequence[Feature] = ()
    """What Health tells that it can do beyond answering a prompt."""
    measured: Sequence[tuple[str, str, str]] = (
        ("requests_total", "total_requests", "Requests"),
        ("active_requests", "active_requests", "Requests that run"),
        ("queued_requests", "queued_requests", "Requests that wait"),
        ("uptime_seconds", "uptime_s", "Since the start"),
    )
    """What of Health is a metric too: the metric's name after `sarai_NAME_`, the path in HealthResp, what it is."""

    def __init__(self, settings: ServerSettings, *, name: str, version: str) -> None:
        self.name, self.version = name, version
        self.log = logging.getLogger(f"sarai.{name}")
        self._metrics_at = settings.metrics
        self.metrics: Metrics | None = None
        self._cpu, self._memory = CpuMeter(), MemoryMeter()
        self._started_s = time.monotonic()
        self.start_s = 0.0
        """Seconds from the start of the process until it served; 0 before that."""
        self._tell_serving: Callable[[bool], Awaitable[None]] | None = None
        self._status, self._message = Status.LOADING, ""
        self._total_requests = 0

    # --- what a subclass defines ---

    def register(self, server: grpc.aio.Server) -> None:
        """Add its servicers."""
        raise NotImplementedError

    async def prepare(self) -> None:
        """Get ready: load a model, start processes. After a failure it is called again if the server stays.

        Raises:
            StartError: The skill cannot serve.
        """

    @property
    def model(self) -> str:
        """The name of its model, if any."""
        return ""

    def pids(self) -> Iterable[int]:
        """Return its processes, for the memory and CPU in Health."""
        return (os.getpid(),)

    def health(self) -> skills_pb2.HealthResp:
        """Return how this replica is; must not wait. A subclass adds its own figures."""
        pids = tuple(self.pids())
        return skills_pb2.HealthResp(
            status=self._status,
            message=self._message,
            version=self.version,
            model=self.model,
            total_requests=self._total_requests,
            uptime_s=time.monotonic() - self._started_s,
            ram_mb=self._memory.bytes(pids) / 1e6,
            cpu_percent=self._cpu.percent(pids),
            features=self.features,
        )

    def readings(self) -> list[Reading]:
        """Return metrics that are not in Health."""
        return []

    def limits_changed(self, now: Limits, before: Limits) -> None:
        """Adapt to limits that have changed while the server runs."""

    # --- life cycle ---

    async def load(self, tell_serving: Callable[[bool], Awaitable[None]]) -> None:
        """Prepare, then accept calls.

        Args:
            tell_serving: reports to the standard health service whether this replica can answer.

        Raises:
            StartError: It cannot get ready.
        """
        self._tell_serving = tell_serving
        self._serve_metrics()
        await self.prepare()
        if not self._takes_calls:  # unless `prepare` has reported a status itself
            await self.set_status(Status.SERVING)
        self.start_s = process_age_s()
        self.log.info("serving %s after %.2f s", self.model or self.name, time.monotonic() - self._started_s)

    async def set_status(self, status: Status, message: str = "") -> None:
        """Report how this replica is to both health services and to callers. DRAINING is final.

        Args:
            status: RECOVERING counts as serving.
            message: the reason, for Health and for callers that are refused.
        """
        if self._status is Status.DRAINING:
            return
        self._status, self._message = status, message
        if self._tell_serving:
            await self._tell_serving(self._takes_calls)

    def draining(self) -> None:
        """Report that no more calls are accepted."""
        self._status = Status.DRAINING

    async def close(self) -> None:
        """End everything it has started."""

    # --- calls ---

    @property
    def _takes_calls(self) -> bool:
        return self._status not in (Status.LOADING, Status.NOT_SERVING)

    @asynccontextmanager
    async def call(self, context: Context, *, at_any_time: bool = False) -> AsyncIterator[None]:
        """Count a call that does the skill's work, or refuse it while this replica cannot serve.

        An exception inside becomes a status, as in every method (`skills.runtime.guard`).

        Args:
            context: the call's context.
            at_any_time: do not refuse it here: the call itself does (`refuse_unless_ready`) before it needs what is
                not there yet.
        """
        if not at_any_time:
            await self.refuse_unless_ready(context)
        self._total_requests += 1
        begin_s = time.monotonic()
        try:
            yield
        finally:
            if self.metrics:
                self.metrics.finished(duration_s=time.monotonic() - begin_s)

    async def refuse_unless_ready(self, context: Context) -> None:
        """End a call with a status while this replica cannot do its work."""
        if self._takes_calls:
            return
        why, reason = "is not ready yet: wait until Health is SERVING", Reason.LOADING
        if self._status is Status.NOT_SERVING:
            why, reason = f"cannot serve: {self._message}", Reason.ENGINE_GONE
        await abort(context, grpc.StatusCode.UNAVAILABLE, f"this replica {why}", reason=reason)

    async def Health(self, request: skills_pb2.HealthReq, context: Context) -> skills_pb2.HealthResp:  # noqa: N802, ARG002
        """Return how this replica is, without waiting for its work."""
        return self.health()

    # --- metrics ---

    def _serve_metrics(self) -> None:
        """Serve the metrics, once, even if loading is tried again."""
        if self.metrics or not self._metrics_at:
            return
        from .metrics import Metrics  # its library takes a fifth of the time of a server's imports

        metrics = Metrics(self._readings)
        try:
            metrics.serve(self._metrics_at)
        except (OSError, ValueError) as error:
            setting = variable(self.name, "metrics")
            raise StartError(f"no metrics on {self._metrics_at!r} ({setting}): {error}") from error
        self.metrics = metrics

    def _readings(self) -> list[Reading]:
        from .metrics import Reading

        health, prefix = self.health(), f"sarai_{self.name}_"
        told = [Reading(prefix + name, what, _value(health, field)) for name, field, what in self.measured]
        return told + self.readings()


def _value(health: skills_pb2.HealthResp, field: str) -> float:
    """Return a figure as metrics have it: times in seconds."""
    return float(attrgetter(field)(health)) / (1000 if field.endswith("_ms") else 1)


class WorkerSkill(BaseSkill):
    """A skill whose work is bounded here: what takes time happens inside `async with self.work.slot()`."""

    def __init__(self, settings: WorkerSettings, *, name: str, version: str) -> None:
        super().__init__(settings, name=name, version=version)
        self._choose_workers = not settings.workers
        self.work = Work(workers=settings.workers or usable_cpus(), queue=settings.queue)

    def health(self) -> skills_pb2.HealthResp:
        """Return how this replica is, with its load."""
        health = super().health()
        health.active_requests, health.queued_requests = self.work.active, self.work.waiting
        health.threads = self.work.workers
        return health

    def limits_changed(self, now: Limits, before: Limits) -> None:  # noqa: ARG002
        """Use as many workers as CPUs, unless the settings specify the number."""
        if self._choose_workers:
            self.work.set_workers(now.cpus)
