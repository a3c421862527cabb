"""Kept answers: what a call may be given of them, what becomes of those that are computed, and the figures of both."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from skills import skills_pb2
from skills.runtime.answer_cache import AnswerCache, Kept
from skills.runtime.answer_cache.cache import memory_for_answers
from skills.wire import Feature

from .answer_key import Server, answer_keys, depends_on_limits, file_bytes, repeats
from .awaited_flight import AwaitedFlight
from .engine.messages import Done, Event, Image, Priority, Request
from .identity import Identity
from .request_images import has_images, image_parts
from .runs import Keeping, Reader, Run, Runs
from .settings import Settings
from .supervisor import Supervisor
from .trajectory import DamagedError, Trajectory, end_of

if TYPE_CHECKING:
    from .near_answers import NearAnswers

log = logging.getLogger("sarai.draft")

_LARGE_BYTES = 1 << 16  # hashed in a thread


@dataclasses.dataclass(slots=True, kw_only=True)
class Call:
    """What kept answers are to one call."""

    request: Request
    mode: skills_pb2.CacheMode.ValueType
    n_ctx: int
    """The context length, tokens."""
    keeping: Keeping | None = None
    """None if nothing is looked up or kept."""
    found: Sequence[Kept | None] = ()
    """What is used of what is kept, by candidate."""
    reader: Reader | None = None
    """Reads the answer, unless nothing of it is kept and no other call computes it."""
    run: Run | None = None
    """Computes it in that case."""
    joined: bool = False
    """Whether the reader reads what is being computed for another call."""
    exact: bool = False
    """Whether numerics are exact."""

    @property
    def whole(self) -> Reader | None:
        """The reader of the whole answer, if that is kept."""
        return (
            self.reader if self.reader and self.reader.ended and self.outcome == skills_pb2.CACHE_OUTCOME_HIT else None
        )

    @property
    def flight(self) -> AwaitedFlight:
        """What its caller reads."""
        flight = self.run or self.reader
        assert flight is not None, "it has entered, or its answer was kept"
        return flight

    @property
    def outcome(self) -> skills_pb2.CacheOutcome.ValueType:
        """Where its answer comes from."""
        if self.keeping is None:
            return skills_pb2.CACHE_OUTCOME_UNSPECIFIED
        if self.run or self.reader is None:
            return skills_pb2.CACHE_OUTCOME_MISS
        if self.joined:
            return skills_pb2.CACHE_OUTCOME_JOINED
        return skills_pb2.CACHE_OUTCOME_PARTIAL if self.reader.computed else skills_pb2.CACHE_OUTCOME_HIT

    def tell(self, info: skills_pb2.CacheInfo) -> None:
        """Write what its caller is told."""
        info.outcome = self.outcome
        if self.run or self.reader is None:
            return
        prompt = 0 if self.reader.computed or not self.reader.admitted else self.reader.admitted.prompt_tokens
        info.saved_tokens = self.reader.saved_tokens + prompt
        if used := [kept for kept in self.found if kept]:
            info.age_ms = int(max(kept.age_s for kept in used) * 1000)
            info.tier = skills_pb2.CacheTier.ValueType(max(kept.tier for kept in used))


class KeptAnswers:
    """The kept answers of a server.

    Args:
        settings: The server's settings.
        on_event: Called with each event of a request in the engine.
    """

    def __init__(self, settings: Settings, on_event: Callable[[Run, Event], None]) -> None:
        self._near = self._near_answers(settings)
        self.cache = AnswerCache(settings, reserved=self._near.bytes if self._near else 0)
        self.identity: Identity | None = None
        """What answers are kept under; None before there is a model."""
        self._runs = Runs(self._heard)
        self._unkept: deque[tuple[Run, Keeping, Done]] = deque()
        self._on_event = on_event
        self._figures = skills_pb2.CacheStats()  # counts since the start
        self._recheck_every, self._hits_since = settings.cache_recheck, 0
        self._rechecking: asyncio.Task[None] | None = None

    def _near_answers(self, settings: Settings) -> NearAnswers | None:
        if settings.cache_near != "on" or not (max_bytes := memory_for_answers(settings)):
            return None
        from .near_answers import NearAnswers  # and NumPy, which a server does not need otherwise

        return NearAnswers(max_bytes, lambda key: kept.value if (kept := self.cache.in_memory(key)) else None)

    async def clear(self) -> tuple[int, int]:
        """Forget all answers; return how many they were, and their bytes."""
        if self._near:
            self._near.clear()
        return await self.cache.clear()

    async def close(self) -> None:
        """Write what is still to be written."""
        if self._rechecking:
            self._rechecking.cancel()
        await self.cache.close()

    def tell(self, health: skills_pb2.HealthResp) -> None:
        """Write the figures into Health."""
        if self.cache.enabled:
            if self.identity and self.identity.digest:
                health.features.append(Feature.CACHE)
            health.cache.CopyFrom(self._figures)
            for name, value in dataclasses.asdict(self.cache.stats).items():
                setattr(health.cache, name, value)

    # --- a call ---

    async def call(
        self, message: skills_pb2.GenReq, request: Request, *, exact: bool, n_ctx: int, random_seed: bool
    ) -> Call:
        """Look up what is kept of a call's answer, unless it asks for a new one.

        Args:
            message: The call's message.
            request: The same, as the engine takes it; its images may be unread.
            exact: Whether numerics are exact.
            n_ctx: The context length, tokens.
            random_seed: Whether nobody has chosen its seed.
        """
        call = Call(request=request, mode=message.cache.mode, n_ctx=n_ctx, exact=exact)
        images = image_parts(message) if has_images(message) else []
        server = self._server(exact=exact, n_ctx=n_ctx, images=bool(images))
        bypass = call.mode == skills_pb2.CACHE_MODE_BYPASS
        if server is None or bypass or not repeats(message, request.sampling, random_seed=random_seed):
            return call
        if file_bytes(images) > _LARGE_BYTES:
            keys = await asyncio.to_thread(answer_keys, request, images, server)
        else:
            keys = answer_keys(request, images, server)
        refresh = call.mode == skills_pb2.CACHE_MODE_REFRESH
        call.keeping = Keeping(
            keys=keys, identity=server.identity, limited=depends_on_limits(request, exact=exact),
            joint=not (refresh or images or request.budget_end), replaces=refresh,
        )  # fmt: skip
        if not refresh:
            await self._look_up(call, call.keeping, message.cache.max_age_ms / 1000 or None)
        if request.so_far and call.reader is None:
            call.keeping = None  # it goes on from tokens that are not known to be this answer's
        return call

    def _server(self, *, exact: bool, n_ctx: int, images: bool) -> Server | None:
        """Return what is in the keys besides the request; None if nothing is kept."""
        identity = self.identity
        if not self.cache.enabled or identity is None or identity.digest is None:
            return None
        if images and identity.image_digest is None:
            return None
        return Server(identity=identity.digest, image_identity=identity.image_digest, exact=exact, n_ctx=n_ctx)

    async def _look_up(self, call: Call, keeping: Keeping, max_age_s: float | None) -> None:
        """Find what is kept, and read it."""
        self._keep_all()
        keys, near = keeping.keys, partial(self.cache.in_memory, max_age_s=max_age_s)
        found = [near(key) for key in keys]
        if self.cache.has_far and not all(found) and not self._runs.can_join(call.request, keeping):
            far = [await self.cache.get(key, max_age_s=max_age_s) for key in keys]
            # Another call may have computed it meanwhile.
            found = [kept or near(key) for key, kept in zip(keys, far, strict=True)]
        if not any(found):
            return
        known = [self._decoded(key, kept) for key, kept in zip(keys, found, strict=True)]
        call.keeping = keeping = dataclasses.replace(keeping, known=known)
        reader = Reader(call.request, keeping, n_ctx=call.n_ctx)
        used = [t if t and cut.fits(t) else None for cut, t in zip(reader.cuts, known, strict=True)]
        if any(t is None and cut.n_had for cut, t in zip(reader.cuts, used, strict=True)):
            return
        call.found = [kept if t else None for kept, t in zip(found, used, strict=True)]
        call.reader = reader
        reader.read_kept(used)

    def _decoded(self, key: bytes, kept: Kept | None) -> Trajectory | None:
        if kept is None:
            return None
        try:
            return Trajectory.decode(kept.value)
        except DamagedError:
            log.warning("a kept answer is damaged: it is computed anew")
            self.cache.remove(key)
            return None

    def enter(self, engine: Supervisor, call: Call, whole: Request) -> AwaitedFlight:
        """Let a call compute what it lacks, or read what is being computed for another; return what it reads.

        Args:
            engine: Works on it.
            call: The call, whose answer is not kept, or only in part.
            whole: Its request, with its images.
        """
        reader, keeping = call.reader, call.keeping
        if keeping and self._runs.can_join(call.request, keeping, begun=bool(reader and reader.begun)):
            call.joined = True
            reader = call.reader = reader or Reader(call.request, keeping, n_ctx=call.n_ctx)
        if reader and (reader.begun or call.joined):
            self._runs.attach(engine, reader, whole)
            return reader
        if self._near and keeping and call.exact:
            sketch, hint = self._near.look(whole, keeping.identity)
            whole = dataclasses.replace(whole, hint=hint) if hint else whole
            keeping = call.keeping = dataclasses.replace(keeping, sketch=sketch)
        call.run = self._runs.lead(engine, whole, keeping)
        return call.run

    def leave(self, engine: Supervisor, call: Call) -> None:
        """Let a call go that has entered: its caller has its answer, or has gone."""
        if call.run:
            self._runs.leave(engine, call.run)
        elif call.reader:
            self._runs.detach(engine, call.reader)

    def answered(self, call: Call, info: skills_pb2.CacheInfo) -> None:
        """Count a call that got its answer."""
        n, figures = len(call.keeping.keys) if call.keeping else 0, self._figures
        match call.outcome:
            case skills_pb2.CACHE_OUTCOME_HIT:
                figures.hits += n
            case skills_pb2.CACHE_OUTCOME_PARTIAL:
                figures.partial += n
            case skills_pb2.CACHE_OUTCOME_JOINED:
                figures.joined += n
            case skills_pb2.CACHE_OUTCOME_MISS:
                figures.misses += n
        figures.saved_tokens += info.saved_tokens
        if call.run is None and call.reader:
            figures.saved_s += call.reader.saved_s

    # --- what is computed ---

    def _heard(self, run: Run, event: Event) -> None:
        self._on_event(run, event)
        if isinstance(event, Done) and run.keeping:
            self._unkept.append((run, run.keeping, event))
            asyncio.get_running_loop().call_soon(self._keep_all)  # once the answer is on its way
        if isinstance(event, Done) and run.request.hint:
            self._figures.near += 1
            self._figures.near_tokens += event.hint_tokens
            self._figures.near_accepted += event.hint_accepted

    def _keep_all(self) -> None:
        """Keep what has just been computed. Also before each look, as nobody can join that any more."""
        while self._unkept:
            self._keep(*self._unkept.popleft())

    def _keep(self, run: Run, keeping: Keeping, done: Done) -> None:
        """Keep what a run has computed, if it is more than what was kept."""
        if self.identity is None or self.identity.digest != keeping.identity or run.admitted is None:
            return
        for key, ending, before in zip(
            keeping.keys, done.endings, keeping.known or (None,) * len(keeping.keys), strict=True
        ):
            end = end_of(ending, limited=keeping.limited)
            if end is None or math.isnan(sum(ending.tokens.logprobs)):
                continue
            trajectory = Trajectory(
                tokens=ending.tokens,
                end=end,
                prompt_tokens=run.admitted.prompt_tokens,
                image_tokens=image_tokens(run.request),
                top_logprobs=run.request.top_logprobs,
                work_s=run.work_s + (before.work_s if before and run.request.so_far else 0.0),
            )
            if keeping.replaces or before is None or not trajectory.is_within(before):
                self.cache.put(key, trajectory.encode())
                if self._near and keeping.sketch and key == keeping.keys[0]:
                    self._near.add(keeping.sketch, key)

    # --- the proof that they are right ---

    def perhaps_recheck(self, engine: Supervisor, call: Call, done: Done) -> None:
        """Compute one of many hits anew, when nobody waits, and compare all bits."""
        self._hits_since += 1
        due = self._recheck_every and self._hits_since >= self._recheck_every
        plain = call.keeping and not call.request.so_far and not image_tokens(call.request)
        if due and plain and not (self._rechecking and not self._rechecking.done()):
            self._hits_since = 0
            self._rechecking = asyncio.create_task(self._recheck(engine, call, done))

    async def _recheck(self, engine: Supervisor, call: Call, kept: Done) -> None:
        request = dataclasses.replace(
            call.request, id=engine.next_id(), priority=Priority.BATCH, arrived=time.monotonic(),
            deadline=None, budget_end=None, progress=False,
        )  # fmt: skip
        flight = engine.submit(request)
        try:
            async for event in flight.events():
                if isinstance(event, Done) and call.keeping:
                    self._compare(call.keeping.keys, kept, event)
        finally:
            engine.leave(flight)

    def _compare(self, keys: Sequence[bytes], kept: Done, computed: Done) -> None:
        for key, old, new in zip(keys, kept.endings, computed.endings, strict=True):
            self._figures.rechecked += 1
            if old != new:
                self._figures.rechecked_wrong += 1
                log.error("a kept answer (key %s) is not what is computed now: please report it", key.hex()[:16])
                self.cache.remove(key)


def image_tokens(request: Request) -> int:
    """Return how many tokens of a prompt its images take."""
    return sum(part.n_tokens for turn in request.turns for part in turn.parts if isinstance(part, Image))
