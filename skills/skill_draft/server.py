"""The draft skill's server: it connects gRPC with the engine process.

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
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from contextlib import aclosing, asynccontextmanager
from functools import partial

import grpc

from skills import skills_pb2, skills_pb2_grpc
from skills.runtime.limits import Limits
from skills.runtime.pieces import Pieces
from skills.runtime.program import run_server
from skills.runtime.resources import memory_size
from skills.runtime.skill import BaseSkill, Context, StartError, Status
from skills.runtime.status import RefusedError
from skills.types_pb2 import ClearCacheReq, ClearCacheResp
from skills.wire import HARD_DEADLINES, RANDOM_SEED, Feature, Reason

from . import VERSION, answers
from .awaited_flight import AwaitedFlight
from .catalog import ModelNotFoundError, find_model, models_dir
from .engine import prefix_folder
from .engine.messages import Done, Failed, Piece, Progress, Ready, Request
from .engine_process import EngineGoneError
from .engine_settings import engine_config, identity_of
from .engine_start import ENGINE_MODULE
from .flight import Flight
from .health import MEASURED, Totals, tell_engine, tell_load
from .identity import Identity
from .images import Images, reserved_bytes
from .kept_answers import Call, KeptAnswers, image_tokens
from .last_moment import LastMoment
from .model_file import ModelFileError
from .request_images import has_images, image_parts
from .requests import to_request
from .settings import NAME, PORT, Settings
from .supervisor import Supervisor
from .supervisor_state import State
from .tower_choice import Tower, choose_tower, fitted, fitted_cells
from .vision_process import VISION_MODULE

_LONGEST_CONTEXT = 1 << 20


class DraftSkill(BaseSkill, skills_pb2_grpc.SkillsServiceServicer):
    """`SkillsService` over one engine.

    Args:
        settings: the server's settings.
        engine_module: the module that the engine process runs.
        vision_module: the module that the vision process runs.
    """

    services: Sequence[str] = ("SkillsService",)
    measured = (*BaseSkill.measured, *MEASURED)
    features = tuple(feature for feature in Feature if feature not in (Feature.IMAGES, Feature.CACHE))

    def __init__(
        self, settings: Settings, *, engine_module: str = ENGINE_MODULE, vision_module: str = VISION_MODULE
    ) -> None:
        super().__init__(settings, name=NAME, version=VERSION)
        self._settings, self._engine_module, self._vision_module = settings, engine_module, vision_module
        self._engine: Supervisor | None = None
        self._tower = Tower()
        self._images: Images | None = None
        self._identity: Identity | None = None
        self._totals = Totals()
        self._kept = KeptAnswers(settings, self._totals.heard)

    # --- lifecycle of the server (see skills.runtime.skill.BaseSkill) ---

    def register(self, server: grpc.aio.Server) -> None:
        """Add `SkillsService`."""
        skills_pb2_grpc.add_SkillsServiceServicer_to_server(self, server)

    async def prepare(self) -> None:
        """Load the model in an engine process."""
        s = self._settings
        await self._kept.cache.start()
        try:
            path = find_model(s.model, folder := models_dir(s.models_dir))
        except ModelNotFoundError as error:
            raise StartError(str(error)) from error
        if not s.model and path.parent != folder:
            self.log.info("no model in %s: serving the small embedded one", folder)
        self.log.info("loading %s", path)
        try:
            tower = choose_tower(s.mmproj, path, folder)
            if tower.file:
                tower = fitted(tower, path, reserved=reserved_bytes(s, tower.file), limit=memory_size())
            try:
                ready = await self._start(path, tower)
                tower = fitted_cells(tower, path, ready, chosen=not (s.n_ctx or s.kv_cells))
            except EngineGoneError as error:
                if tower.file is None:
                    raise
                tower = Tower(why_not=f"with images, {error}", short_of_memory=True)
            if tower.file is None and self._images:  # the estimate was too low: the engine gets all memory
                await self.set_status(Status.LOADING)
                await self._start(path, tower)
        except (EngineGoneError, ModelFileError) as error:
            raise StartError(str(error)) from error
        if s.cache_near == "on" and self._numerics != "exact":
            self.log.warning("SKILL_DRAFT_CACHE_NEAR does nothing with %s numerics", self._numerics)
        self.log.info("images: %s", tower.file.path.name if tower.file else f"none, as {tower.why_not}")

    async def _start(self, path: Path, tower: Tower) -> Ready:
        """Start an engine, and what reads images for it if there is a vision tower."""
        await self._end_engine()
        s, self._tower, self._images = self._settings, tower, None
        self._identity = self._kept.identity = identity_of(s, path, tower)
        self._model = path
        if tower.file:
            self._images = Images(s, path, tower.file, module=self._vision_module)
            self._images.begin()
        self._engine = Supervisor(
            engine_config(s, path, self._images),
            step_timeout_s=s.step_timeout_s,
            start_timeout_s=s.start_timeout_s,
            idle_s=s.engine_idle_s,
            on_state=self._on_state,
            engine_module=self._engine_module,
            rows=self._images.rows if self._images else None,
            identity=self._identity,
        )
        return await self._engine.start()

    async def _on_state(self, state: State) -> None:
        """Report the engine's state. A new engine takes less than a second, so calls wait for it."""
        assert self._engine is not None
        await self.set_status(Status(state.value), self._engine.message)

    def limits_changed(self, now: Limits, before: Limits) -> None:
        """Let the running engine use the new number of CPUs. A new memory limit applies to the next engine."""
        if now.memory_bytes != before.memory_bytes:
            self.log.info("the next engine will be sized for the new memory limit")
        if now.cpus == before.cpus or self._engine is None:
            return
        if self._settings.threads:
            self.log.info("SKILL_DRAFT_THREADS keeps the engine at %d threads", self._settings.threads)
        else:
            self.log.info("the engine uses up to %d threads from now on", now.cpus)
            self._engine.use_cpus(now.cpus)

    async def close(self) -> None:
        """End everything."""
        await self._end_engine()
        await self._kept.close()

    async def _end_engine(self) -> None:
        """End the engine, which first writes the prefixes that are to be kept, and the vision process."""
        if self._identity:
            self._identity.close()
        if self._engine:
            await self._engine.close()
        if self._images:
            await self._images.close()

    # --- its health ---

    @property
    def model(self) -> str:
        """The model's name."""
        return self._engine.ready.model if self._engine and self._engine.ready else ""

    def pids(self) -> Iterable[int]:
        """Return the process ids of the server, its engine and its vision process."""
        pids = self._engine.pids if self._engine else (os.getpid(),)
        return (*pids, *(self._images.pids if self._images else ()))

    def health(self) -> skills_pb2.HealthResp:
        """Return the health of this replica without waiting for the engine."""
        health = super().health()
        self._totals.tell(health)
        if self._engine:
            tell_engine(self._engine, health)
            tell_load(self._engine, health, start_s=self.start_s)
        if self._images:
            health.features.append(Feature.IMAGES)
            health.engine.images, health.engine.images_encoded = self._images.seen, self._images.rows.encoded
        elif self._tower.short_of_memory:
            health.message = health.message or f"reads no images: {self._tower.why_not}"
        self._kept.tell(health)
        return health

    # --- SkillsService ---

    async def Generate(self, request: skills_pb2.GenReq, context: Context) -> skills_pb2.GenResp:  # noqa: N802 - gRPC's
        """Generate an answer and return it in one message."""
        answer: object = None
        async with self.call(context, at_any_time=True), aclosing(self._run(request, context)) as events:
            async for event in events:  # to their end: what is left of generators is closed in tasks of their own
                answer = event
        assert isinstance(answer, skills_pb2.GenResp), "a call ends with an answer or a status"
        return answer

    async def GenerateStream(  # noqa: N802 - gRPC's name
        self, request: skills_pb2.GenReq, context: Context
    ) -> AsyncIterator[skills_pb2.GenChunk]:
        """Generate an answer in pieces; the last chunk has the result."""
        pieces = Pieces(context, request)
        async with self.call(context, at_any_time=True), aclosing(self._run(request, context)) as events:
            async for event in events:
                for sent in pieces.put(answers.chunk(event)):
                    yield sent

    async def ClearCache(self, request: ClearCacheReq, context: Context) -> ClearCacheResp:  # noqa: N802, ARG002
        """Forget all kept answers, and the prefixes in their folder."""
        entries, num_bytes = await self._kept.clear()
        files, prefix_bytes = await self._clear_prefixes(self._settings.prefix_dir)
        return ClearCacheResp(entries=entries, bytes=num_bytes, prefix_files=files, prefix_bytes=prefix_bytes)

    async def _clear_prefixes(self, folder: str) -> tuple[int, int]:
        if self._engine and folder:
            self._engine.forget_prefixes()
        try:
            return await asyncio.to_thread(prefix_folder.clear, Path(folder)) if folder else (0, 0)
        except FileNotFoundError:
            return 0, 0
        except OSError as error:
            message = f"the answers are forgotten, but the prefixes in {folder} are still there: {error.strerror}"
            raise RefusedError(message, code=grpc.StatusCode.FAILED_PRECONDITION) from error

    async def _run(
        self, message: skills_pb2.GenReq, context: Context
    ) -> AsyncGenerator[Progress | Piece | skills_pb2.GenResp, None]:
        if self._identity is None:
            await self.refuse_unless_ready(context)
        request, n_ctx = self._request(message, context)
        if self._settings.deadline == "error":
            await context.send_initial_metadata((HARD_DEADLINES,))
        random_seed = RANDOM_SEED in (context.invocation_metadata() or ())
        exact = self._numerics == "exact"
        call = await self._kept.call(message, request, exact=exact, n_ctx=n_ctx, random_seed=random_seed)
        if reader := call.whole:
            async for event in self._read(reader, call, reader.image_tokens):
                yield event
            return
        if call.mode == skills_pb2.CACHE_MODE_ONLY:
            raise RefusedError("no answer to it is kept", code=grpc.StatusCode.NOT_FOUND, reason=Reason.NOT_KEPT)
        await self.refuse_unless_ready(context)
        engine = self._engine
        assert engine is not None, "no call is accepted before the engine is ready"
        async with self._with_images(request, message, n_ctx) as whole:
            flight = self._kept.enter(engine, call, whole)
            try:
                with LastMoment(flight, engine.way_back, context.peer()):
                    async for event in self._read(flight, call, image_tokens(whole)):
                        yield event
            finally:
                # Also when the caller has gone or its deadline has passed: this generator is cancelled or closed then.
                self._kept.leave(engine, call)

    def _request(self, message: skills_pb2.GenReq, context: Context) -> tuple[Request, int]:
        """Return the request of a call, and the context length by which it is judged."""
        engine, hard = self._engine, self._settings.deadline == "error"
        remaining: float | None = context.time_remaining()  # None where there is no deadline, despite its declared type
        deadline = None if remaining is None else time.monotonic() + remaining
        # While no engine has told it yet, only what is kept can be given, and that has been short enough for others.
        n_ctx = engine.ready.sizes.n_ctx if engine and engine.ready else self._settings.n_ctx or _LONGEST_CONTEXT
        id_ = engine.next_id() if engine else 0
        return to_request(message, id_=id_, n_ctx=n_ctx, deadline=deadline, hard_deadline=hard), n_ctx

    async def _read(
        self, flight: AwaitedFlight, call: Call, image_tokens: int
    ) -> AsyncGenerator[Progress | Piece | skills_pb2.GenResp, None]:
        """Yield what a call reads; the last event is its answer."""
        async for event in flight.events():
            match event:
                case Progress():
                    if call.request.progress:
                        yield event
                case Piece():
                    yield event
                case Done():
                    if call.whole and self._engine:
                        self._kept.perhaps_recheck(self._engine, call, event)
                    yield self._answer(flight, call, event, image_tokens)
                case Failed():
                    raise answers.refused(event)

    @asynccontextmanager
    async def _with_images(self, request: Request, message: skills_pb2.GenReq, n_ctx: int) -> AsyncIterator[Request]:
        """Hold a request with its images, if it has any, as long as the context lasts."""
        if not has_images(message):
            yield request
        elif self._images is None:
            why = f"this replica reads no images: {self._tower.why_not}"
            raise RefusedError(why, code=grpc.StatusCode.FAILED_PRECONDITION)
        else:
            async with self._images.held(request, image_parts(message), n_ctx) as whole:
                yield whole

    @property
    def _numerics(self) -> str:
        return self._engine.ready.numerics if self._engine and self._engine.ready else self._settings.numerics

    def _answer(self, flight: Flight, call: Call, done: Done, image_tokens: int) -> skills_pb2.GenResp:
        result = answers.answer(
            flight, done,
            model=self.model or self._model.stem, numerics=self._numerics, image_tokens=image_tokens,
            ram_bytes=self._memory.bytes(self.pids()),
        )  # fmt: skip
        if call.keeping:
            call.tell(result.cache)
            self._kept.answered(call, result.cache)
        if self.metrics and call.run:
            self.metrics.written(
                first_token_s=result.time_to_first_token_ms / 1000,
                tokens=result.tokens_generated - result.continued_tokens,
                duration_s=result.latency_ms / 1000,
            )
        return result


def main(
    arguments: Sequence[str] | None = None, *, engine_module: str = ENGINE_MODULE, vision_module: str = VISION_MODULE
) -> int:
    """Run the server, and return the process's exit code."""
    make = partial(DraftSkill, engine_module=engine_module, vision_module=vision_module)
    return run_server(make, Settings, name=NAME, port=PORT, arguments=arguments)


if __name__ == "__main__":
    sys.exit(main())
