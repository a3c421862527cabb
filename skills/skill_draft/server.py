"""The draft skill's server: gRPC on one side, the engine process on the other, nothing else.

python server.py                      # from this folder; serves on 127.0.0.1:50051
python -m skills.skill_draft.server   # from the repository root
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # run as `python server.py`: make `skills` importable
    sys.path[0] = str(Path(__file__).resolve().parents[2])
    __package__ = "skills.skill_draft"

if __name__ == "__main__":
    from .engine_start import start_early

    start_early(sys.argv[1:])

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, NoReturn

import grpc

from skills import skills_pb2, skills_pb2_grpc
from skills.runtime.limits import Limits
from skills.runtime.pieces import Pieces
from skills.runtime.resources import CpuMeter, anonymous_bytes, usable_cpus
from skills.runtime.serving import Serving, StartError, configure_logging, serve
from skills.runtime.status import abort
from skills.wire import HARD_DEADLINES, Feature, Reason

from . import VERSION, answers
from .catalog import ModelNotFoundError, find_model, models_dir
from .engine.messages import Done, EngineConfig, Failed, FailureKind, Piece, Progress
from .engine_process import EngineGoneError
from .flight import Flight
from .last_moment import LastMoment
from .requests import InvalidFieldError, to_request
from .settings import Settings, SettingsError, load
from .supervisor import State, Supervisor

if TYPE_CHECKING:
    from skills.runtime.metrics import Metrics, Reading

log = logging.getLogger("sarai.draft")

LOADING = "the model is still loading: wait until Health is SERVING"
SPEED_WINDOW_S = 10.0
# Every way in which the engine refuses, as gRPC defines its codes.
CODES = {
    FailureKind.INVALID: grpc.StatusCode.INVALID_ARGUMENT,
    FailureKind.FULL: grpc.StatusCode.RESOURCE_EXHAUSTED,
    FailureKind.DEADLINE: grpc.StatusCode.DEADLINE_EXCEEDED,
    FailureKind.INTERNAL: grpc.StatusCode.INTERNAL,
    FailureKind.UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
}
# Metrics: the name, the field of HealthResp, what it is.
READINGS = (
    ("requests_total", "total_requests", "Requests"),
    ("tokens_total", "engine.total_tokens", "Tokens written"),
    ("prompt_tokens_total", "engine.prompt_tokens", "Tokens of prompts"),
    ("cached_tokens_total", "engine.cached_tokens", "Tokens of prompts that were found in the prefix cache"),
    ("lookup_tokens_total", "engine.lookup_tokens", "Lookup tokens tried"),
    ("lookup_accepted_total", "engine.lookup_accepted", "Lookup tokens that were right"),
    ("engine_restarts_total", "engine.restarts", "Engines replaced"),
    ("engine_memory_kills_total", "engine.memory_kills", "Engines that the kernel killed as memory ran out"),
    ("active_requests", "active_requests", "Requests that run"),
    ("queued_requests", "queued_requests", "Requests that wait"),
    ("threads", "threads", "CPU threads in use"),
    ("kv_cells", "engine.kv_cells", "Cells of the KV cache"),
    ("kv_cells_used", "engine.kv_cells_used", "Cells that hold something"),
    ("uptime_seconds", "uptime_s", "Since the start"),
)
Context = grpc.aio.ServicerContext[object, object]


class DraftSkill(skills_pb2_grpc.SkillsServiceServicer):
    """`SkillsService` over one engine."""

    name = "draft"
    services: Sequence[str] = ("SkillsService",)
    bystanders: tuple[str, ...] = ("/SkillsService/Health",)
    features = (
        Feature.RESUME, Feature.GRAMMAR, Feature.JSON_SCHEMA, Feature.REGEX, Feature.LARK, Feature.JSON_OBJECT,
    )  # fmt: skip

    def __init__(self, settings: Settings, *, engine_module: str | None = None) -> None:
        self._settings = settings
        self._engine_module = engine_module
        self._started = time.monotonic()
        self._cpu = CpuMeter()
        self._draining = False
        self._cannot_serve = ""
        self._serving: Serving | None = None
        self._engine: Supervisor | None = None
        self._total_requests = self._total_tokens = self._prompt_tokens = self._cached_tokens = 0
        self._recent: deque[tuple[float, int]] = deque()
        self._metrics = self._make_metrics() if settings.metrics else None

    # --- the life of the server (see skills.runtime.serving.Skill) ---

    def register(self, server: grpc.aio.Server) -> None:
        """Adds `SkillsService`."""
        skills_pb2_grpc.add_SkillsServiceServicer_to_server(self, server)

    async def load(self, serving: Serving) -> None:
        """Loads the model in an engine process."""
        self._serving, s = serving, self._settings
        self._serve_metrics()
        self._engine = None
        try:
            path = find_model(s.model, folder := models_dir(s.models_dir))
        except ModelNotFoundError as error:
            raise StartError(str(error)) from error
        if not s.model and path.parent != folder:
            log.info("no model in %s: serving the small embedded one", folder)
        log.info("loading %s", path)
        config = EngineConfig(
            model=str(path),
            n_ctx=s.n_ctx,
            kv_cells=s.kv_cells,
            n_batch=s.n_batch,
            slots=s.slots,
            queue=s.queue,
            prefixes=s.prefixes,
            gap_ms=s.gap_ms,
            piece_ms=s.piece_ms,
            exact=s.numerics == "exact",
            threads=s.threads or usable_cpus(),
        )
        extra = {"engine_module": self._engine_module} if self._engine_module else {}
        self._engine = Supervisor(
            config,
            step_timeout_s=s.step_timeout_s,
            start_timeout_s=s.start_timeout_s,
            on_state=self._on_state,
            **extra,
        )
        try:
            ready = await self._engine.start()
        except EngineGoneError as error:
            raise StartError(str(error)) from error
        self._cannot_serve = ""
        log.info("serving %s after %.2f s", ready.model, time.monotonic() - self._started)

    async def _on_state(self, state: State) -> None:
        """A new engine takes under a second, and calls wait for it: only the lack of one is NOT_SERVING."""
        if self._serving and not self._draining:
            await self._serving.set(state in (State.SERVING, State.RECOVERING))

    def cannot_serve(self, why: str) -> None:
        """Health and callers are told, until it can."""
        self._cannot_serve = why

    def limits_changed(self, now: Limits, before: Limits) -> None:
        """The running engine follows the CPUs; memory is what the next one is sized by."""
        if now.memory_bytes != before.memory_bytes:
            log.info("the next engine will be sized for the new memory limit")
        if now.cpus == before.cpus or self._engine is None:
            return
        if self._settings.threads:
            log.info("SKILL_DRAFT_THREADS keeps the engine at %d threads", self._settings.threads)
        else:
            log.info("the engine uses up to %d threads from now on", now.cpus)
            self._engine.use_cpus(now.cpus)

    def draining(self) -> None:
        """No more calls will come in."""
        self._draining = True

    async def close(self) -> None:
        """Ends the engine."""
        if self._engine:
            await self._engine.close()

    # --- SkillsService ---

    async def Generate(self, request: skills_pb2.GenReq, context: Context) -> skills_pb2.GenResp:  # noqa: N802 - gRPC's
        """Answers in one message."""
        async for event in self._run(request, context):
            if isinstance(event, skills_pb2.GenResp):
                return event
        raise AssertionError("a call ends with an answer or a status")

    async def GenerateStream(  # noqa: N802 - gRPC's name
        self, request: skills_pb2.GenReq, context: Context
    ) -> AsyncIterator[skills_pb2.GenChunk]:
        """Answers in pieces; the last chunk holds what is known at the end."""
        pieces = Pieces(context, request)
        async for event in self._run(request, context):
            chunk = skills_pb2.GenChunk(result=event) if isinstance(event, skills_pb2.GenResp) else answers.chunk(event)
            for sent in pieces.put(chunk):
                yield sent

    async def _run(
        self, message: skills_pb2.GenReq, context: Context
    ) -> AsyncIterator[Progress | Piece | skills_pb2.GenResp]:
        engine = self._engine
        if engine is None or not engine.ready:
            await self._not_ready(context)
        remaining: float | None = context.time_remaining()  # None where there is no deadline, whatever its type says
        deadline = None if remaining is None else time.monotonic() + remaining
        try:
            request = to_request(
                message, id_=engine.next_id(), n_ctx=engine.ready.sizes.n_ctx, deadline=deadline,
                hard_deadline=self._settings.deadline == "error",
            )  # fmt: skip
        except InvalidFieldError as error:
            await abort(context, CODES[FailureKind.INVALID], str(error), field=error.field)
        self._total_requests += 1
        if self._settings.deadline == "error":
            await context.send_initial_metadata((HARD_DEADLINES,))
        flight = engine.submit(request)
        try:
            with LastMoment(flight, engine.way_back, context.peer()):
                async for event in flight.events():
                    match event:
                        case Progress():
                            if request.progress:
                                yield event
                        case Piece():
                            self._count(len(event.tokens.token_ids))
                            yield event
                        case Done():
                            yield self._answer(engine, flight, event)
                        case Failed():
                            await self._refuse(context, event)
        finally:
            # Also when the caller has gone or its deadline passed: then this coroutine is cancelled or closed.
            engine.leave(flight)

    async def _not_ready(self, context: Context) -> NoReturn:
        why, reason = LOADING, Reason.LOADING
        if self._cannot_serve:
            why, reason = f"this replica cannot serve: {self._cannot_serve}", Reason.ENGINE_GONE
        await abort(context, grpc.StatusCode.UNAVAILABLE, why, reason=reason)

    async def _refuse(self, context: Context, failed: Failed) -> None:
        reason = Reason.ENGINE_GONE if failed.kind is FailureKind.UNAVAILABLE else None
        await abort(
            context, CODES[failed.kind], failed.message,
            field=failed.field, retry_after_s=failed.retry_after_s, reason=reason,
        )  # fmt: skip

    def _answer(self, engine: Supervisor, flight: Flight, done: Done) -> skills_pb2.GenResp:
        assert engine.ready is not None
        result = answers.answer(flight, done, engine.ready, ram_bytes=anonymous_bytes(engine.pids))
        self._prompt_tokens += result.prompt_tokens
        self._cached_tokens += result.cached_tokens
        if self._metrics:
            self._metrics.answered(
                first_token_s=result.time_to_first_token_ms / 1000,
                tokens=result.tokens_generated - result.continued_tokens,
                duration_s=result.latency_ms / 1000,
            )
        return result

    def _count(self, tokens: int) -> None:
        now = time.monotonic()
        self._total_tokens += tokens
        self._recent.append((now, tokens))
        while self._recent and self._recent[0][0] < now - SPEED_WINDOW_S:
            self._recent.popleft()

    def _serve_metrics(self) -> None:
        """Once, though loading may be tried again."""
        if self._metrics and not self._metrics.serving:
            try:
                self._metrics.serve(self._settings.metrics)
            except (OSError, ValueError) as error:
                raise StartError(f"no metrics on {self._settings.metrics!r} (SKILL_DRAFT_METRICS): {error}") from error

    def _make_metrics(self) -> Metrics:
        from skills.runtime.metrics import Metrics  # its library costs a fifth of the server's imports

        return Metrics(self._readings)

    def _readings(self) -> list[Reading]:
        """What Health says, as metrics."""
        from skills.runtime.metrics import Reading

        health = self._health()
        return [
            Reading(f"sarai_draft_{name}", what, float(attrgetter(field)(health))) for name, field, what in READINGS
        ]

    async def Health(self, request: skills_pb2.HealthReq, context: Context) -> skills_pb2.HealthResp:  # noqa: N802, ARG002
        """What this replica does and how it is; never waits for the engine."""
        return self._health()

    def _health(self) -> skills_pb2.HealthResp:
        health = skills_pb2.HealthResp(
            status=self._status(),
            total_requests=self._total_requests,
            uptime_s=time.monotonic() - self._started,
            version=VERSION,
            message=self._cannot_serve,
            features=self.features,
        )
        if engine := self._engine:
            health.MergeFrom(
                skills_pb2.HealthResp(
                    ram_mb=anonymous_bytes(engine.pids) / 1e6,
                    cpu_percent=self._cpu.percent(engine.pids),
                    active_requests=engine.stats.active,
                    queued_requests=engine.stats.queued,
                    model=engine.ready.model if engine.ready else "",
                    threads=engine.stats.threads,
                    message=self._cannot_serve or engine.message or engine.sizing.note,
                    engine=self._engine_stats(engine),
                )
            )
        return health

    def _engine_stats(self, engine: Supervisor) -> skills_pb2.EngineStats:
        tried, right = engine.lookup_totals()
        stats = skills_pb2.EngineStats(
            kv_cells_used=engine.stats.kv_used,
            restarts=engine.restarts,
            memory_kills=engine.sizing.kills,
            tokens_per_second=self._tokens_per_second(),
            total_tokens=self._total_tokens,
            prompt_tokens=self._prompt_tokens,
            cached_tokens=self._cached_tokens,
            lookup_tokens=tried,
            lookup_accepted=right,
        )
        if ready := engine.ready:
            stats.numerics, stats.n_ctx, stats.kv_cells = ready.numerics, ready.sizes.n_ctx, ready.sizes.n_cells
        return stats

    def _tokens_per_second(self) -> float:
        begin_s = time.monotonic() - SPEED_WINDOW_S
        return sum(tokens for at, tokens in self._recent if at >= begin_s) / SPEED_WINDOW_S

    def _status(self) -> str:
        if self._draining:
            return "DRAINING"
        if self._cannot_serve:
            return State.NOT_SERVING.value
        return (self._engine.state if self._engine else State.LOADING).value


def main(arguments: list[str] | None = None, *, engine_module: str | None = None) -> int:
    """Runs the server; returns the exit code."""
    try:
        settings, lifeline = load(sys.argv[1:] if arguments is None else arguments)
    except SettingsError as error:
        sys.stderr.write(f"skill_draft: {error}\n")
        return 2
    configure_logging(settings.log_level)
    try:
        return asyncio.run(
            serve(
                DraftSkill(settings, engine_module=engine_module),
                listen=settings.listen,
                grace_s=settings.grace_s,
                max_message_bytes=int(settings.max_message_mb * (1 << 20)),
                lifeline=lifeline,
                stay=settings.on_start_failure == "stay",
            )
        )
    except StartError as error:
        sys.stderr.write(f"skill_draft: {error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
