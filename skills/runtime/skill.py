"""What a sibling's server class begins with: its life, its limits, its health, its statuses and its metrics."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import grpc

from skills import skills_pb2
from skills.wire import Feature, Reason

from .limits import Limits
from .resources import CpuMeter, anonymous_bytes, usable_cpus
from .serving import Serving, StartError
from .settings import ServerSettings
from .status import abort
from .work import BusyError, Work

if TYPE_CHECKING:
    from .metrics import Metrics, Reading

Context = grpc.aio.ServicerContext[object, object]


class BaseSkill:
    """The part of a skill's server that is the same in all of them; see `skills.runtime.serving.Skill`.

    A subclass says which `services` it has, adds its servicer in `register`, does each call inside
    `async with self.call(context)`, and what costs time inside `async with self.work.slot()`.

    Args:
        settings: how it runs.
        name: the skill's name.
        version: its version, which Health tells.
    """

    services: Sequence[str] = ()
    bystanders: tuple[str, ...] = ()
    features: Sequence[Feature] = ()
    """What Health tells that it can do beyond answering a prompt."""

    def __init__(self, settings: ServerSettings, *, name: str, version: str) -> None:
        self.name, self.version = name, version
        self.log = logging.getLogger(f"sarai.{name}")
        self._choose_workers = not settings.workers
        self.work = Work(workers=settings.workers or usable_cpus(), queue=settings.queue)
        self._metrics_at = settings.metrics
        self._metrics = self._make_metrics() if settings.metrics else None
        self._cpu = CpuMeter()
        self._started_s = time.monotonic()
        self._status, self._message = "LOADING", ""
        self._total_requests = 0

    # --- what a subclass has of its own ---

    def register(self, server: grpc.aio.Server) -> None:
        """Adds its servicers."""
        raise NotImplementedError

    async def prepare(self) -> None:
        """Gets ready: loads a model, starts processes. Raises `StartError` if it cannot; may be called again then."""

    def pids(self) -> Iterable[int]:
        """Its processes, whose memory and CPU Health tells."""
        return (os.getpid(),)

    def readings(self) -> list[Reading]:
        """Further metrics."""
        return []

    # --- the life of the server ---

    async def load(self, serving: Serving) -> None:
        """Gets ready and then serves."""
        self._serve_metrics()
        await self.prepare()
        self._status, self._message = "SERVING", ""
        await serving.set(True)
        self.log.info("serving after %.2f s", time.monotonic() - self._started_s)

    def cannot_serve(self, why: str) -> None:
        """Health and callers are told, until it can."""
        self._status, self._message = "NOT_SERVING", why

    def limits_changed(self, now: Limits, before: Limits) -> None:  # noqa: ARG002
        """As many workers as CPUs, unless the settings say how many."""
        if self._choose_workers:
            self.work.set_workers(now.cpus)

    def draining(self) -> None:
        """No more calls will come in."""
        self._status = "DRAINING"

    async def close(self) -> None:
        """Ends what it started."""

    # --- its calls ---

    @asynccontextmanager
    async def call(self, context: Context) -> AsyncIterator[None]:
        """The frame of every call that does the skill's work: it waits for none while it cannot serve, and is counted.

        What goes wrong inside becomes a status, as in every method (`skills.runtime.guard`).
        """
        if self._status in ("LOADING", "NOT_SERVING"):
            why = f"this replica cannot serve: {self._message}" if self._message else "this replica is not ready yet"
            await abort(context, grpc.StatusCode.UNAVAILABLE, why, reason=Reason.LOADING)
        self._total_requests += 1
        begin_s = time.monotonic()
        try:
            yield
        except BusyError as busy:
            await abort(
                context, grpc.StatusCode.RESOURCE_EXHAUSTED, str(busy), retry_after_s=busy.retry_after_s
            )  # fmt: skip
        finally:
            if self._metrics:
                self._metrics.finished(duration_s=time.monotonic() - begin_s)

    async def Health(self, request: skills_pb2.HealthReq, context: Context) -> skills_pb2.HealthResp:  # noqa: N802, ARG002
        """What this replica does and how it is; never waits for its work."""
        pids = tuple(self.pids())
        return skills_pb2.HealthResp(
            status=self._status,
            message=self._message,
            version=self.version,
            total_requests=self._total_requests,
            active_requests=self.work.active,
            queued_requests=self.work.waiting,
            threads=self.work.workers,
            uptime_s=time.monotonic() - self._started_s,
            ram_mb=anonymous_bytes(pids) / 1e6,
            cpu_percent=self._cpu.percent(pids),
            features=self.features,
        )

    # --- metrics ---

    def _serve_metrics(self) -> None:
        """Once, though loading may be tried again."""
        if self._metrics and not self._metrics.serving:
            try:
                self._metrics.serve(self._metrics_at)
            except (OSError, ValueError) as error:
                raise StartError(f"no metrics on {self._metrics_at!r}: {error}") from error

    def _make_metrics(self) -> Metrics:
        from .metrics import Metrics  # its library costs a fifth of a server's imports

        return Metrics(self._readings)

    def _readings(self) -> list[Reading]:
        from .metrics import Reading

        common = (
            ("requests_total", "Requests", self._total_requests),
            ("active_requests", "Requests that run", self.work.active),
            ("queued_requests", "Requests that wait", self.work.waiting),
            ("uptime_seconds", "Since the start", time.monotonic() - self._started_s),
        )
        readings = [Reading(f"sarai_{self.name}_{name}", help_, float(value)) for name, help_, value in common]
        return readings + self.readings()
