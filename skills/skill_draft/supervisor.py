"""Keeps an engine process alive and the requests going.

llama.cpp can abort or wedge for reasons that no Python can catch. So liveness is progress: an engine that has gone,
or that has made no step within a bound, is replaced, and every running request goes on in the new one from the tokens
that its caller has.
"""

from __future__ import annotations

import asyncio
import dataclasses
import enum
import hashlib
import itertools
import logging
import os
import signal
import time
from collections.abc import Awaitable, Callable

from skills.runtime.patience import TICK_S, patience, tick
from skills.runtime.way_back import WayBack

from .engine.messages import (
    Beat,
    Cancel,
    Done,
    EngineConfig,
    Event,
    Failed,
    FailureKind,
    NotReady,
    Ready,
    Request,
    Stats,
    UseCpus,
)
from .engine_process import EngineGoneError, EngineProcess, Exit
from .engine_start import ENGINE_MODULE
from .flight import Flight
from .replay import Replay
from .sizing import Sizing

log = logging.getLogger("sarai.draft")

RESTART_DELAY_S = (0.0, 0.0, 0.5, 1.0, 2.0, 5.0, 10.0)


class State(enum.Enum):
    """What a replica can do just now; the words that Health says."""

    LOADING = "LOADING"
    SERVING = "SERVING"
    RECOVERING = "RECOVERING"
    NOT_SERVING = "NOT_SERVING"


class Supervisor:
    """The engine as the server sees it: submit, cancel, and how it is."""

    def __init__(
        self,
        config: EngineConfig,
        *,
        step_timeout_s: float,
        start_timeout_s: float,
        on_state: Callable[[State], Awaitable[None]],
        engine_module: str = ENGINE_MODULE,
    ) -> None:
        self._config, self._module = config, engine_module
        self._step_timeout_s, self._start_timeout_s, self._on_state = step_timeout_s, start_timeout_s, on_state
        self.state, self.message = State.LOADING, ""
        self.ready: Ready | None = None
        self.stats = Stats()
        self.way_back = WayBack()
        self.restarts = 0
        self._lookup_of_dead = (0, 0)
        self._ids = itertools.count(1)
        self._flights: dict[int, Flight] = {}
        self._process: EngineProcess | None = None
        self._replay = Replay()
        self.sizing = Sizing()
        self._keeper: asyncio.Task[None] | None = None

    # --- for the server ---

    async def start(self) -> Ready:
        """Starts the first engine; raises `EngineGoneError` if it does not get ready."""
        while self.ready is None:
            try:
                await self._launch()
            except EngineGoneError as error:
                if not self.sizing.shrinks_after(error.ended):
                    raise
        self._keeper = asyncio.create_task(self._keep())
        self._keeper.add_done_callback(_end_if_broken)
        await self._set_state(State.SERVING)
        return self.ready

    async def close(self) -> None:
        """Ends the engine."""
        if self._keeper:
            self._keeper.cancel()
        if self._process:
            await self._process.end("the server ends")

    @property
    def pids(self) -> list[int]:
        """The processes of this replica."""
        return [os.getpid(), *([self._process.pid] if self._process else [])]

    def next_id(self) -> int:
        """A number for a new request."""
        return next(self._ids)

    def submit(self, request: Request) -> Flight:
        """Sends a request on its way; it is done when its flight's events end."""
        flight = self._flights[request.id] = Flight(request)
        if self.state is State.NOT_SERVING:
            self._fail(flight, f"the engine cannot be started: {self.message}")
        elif self.state is State.SERVING and not self._replay.active:
            self._send(request)
        else:
            self._replay.add(flight)
        return flight

    def leave(self, flight: Flight) -> None:
        """The caller is done with a flight, or has gone."""
        if self._flights.pop(flight.request.id, None) is None:
            return
        if self.state is State.SERVING:
            self._send(Cancel(id=flight.request.id))
        self._replay.leave(flight)
        self._send_next()

    def use_cpus(self, count: int) -> None:
        """Lets this engine, and those that replace it, use another number of CPUs."""
        self._config = dataclasses.replace(self._config, threads=count)
        if self._process:
            self._process.send(UseCpus(count=count))

    def lookup_totals(self) -> tuple[int, int]:
        """Lookup tokens tried and accepted since the start, over all engines."""
        tried, right = self._lookup_of_dead
        return tried + self.stats.lookup_tokens, right + self.stats.lookup_accepted

    # --- keeping an engine alive ---

    async def _launch(self) -> None:
        """Starts an engine and waits until it is ready; raises `EngineGoneError` if it does not get there."""
        process = self._process = await EngineProcess.start(self._module, "exact" if self._config.exact else "fast")
        process.send(self.sizing.of_next(self._config))
        try:
            async with patience(self._start_timeout_s):
                first = (await process.receive())[0]
        except TimeoutError:
            message = f"the model did not load within {self._start_timeout_s:g} s"
            raise EngineGoneError(message, await process.end(message)) from None
        except EngineGoneError:
            ended = await process.ended()
            raise EngineGoneError(f"the engine process ended while loading the model ({ended})", ended) from None
        if isinstance(first, NotReady):
            raise EngineGoneError(first.message, await process.end(first.message))
        assert isinstance(first, Ready)
        for note in first.notes:
            log.info("%s", note)
        self.sizing.measured(first.sizes)
        self.ready, self.stats, self.message = first, Stats(), ""

    async def _keep(self) -> None:
        while True:
            assert self._process is not None
            watch = asyncio.create_task(self._watch(self._process))
            try:
                while True:
                    for event in await self._process.receive():
                        self._on_event(event)
            except EngineGoneError:
                pass
            finally:
                watch.cancel()
            await self._set_state(State.RECOVERING)
            await self._recover(await self._process.ended())

    async def _watch(self, process: EngineProcess) -> None:
        """Kills an engine that makes no step, or whose intake is stuck on one request."""
        silence, preparing = _Same(), _Same()
        while True:
            passed_s = await tick(min(TICK_S, self._step_timeout_s / 4))
            silent_s = silence.for_s(process.num_frames, passed_s)
            busy_since = self.stats.intake_busy_since
            busy_s = preparing.for_s(busy_since, passed_s) if busy_since is not None else 0.0
            if silent_s > self._step_timeout_s:
                why = f"no step for {silent_s:.1f} s"
            elif busy_s > self._step_timeout_s:
                why = f"a request has been prepared for {busy_s:.1f} s"
            else:
                continue
            log.error("%s: killing the engine", why)
            process.kill(why)
            return

    async def _recover(self, ended: Exit) -> None:
        """A new engine for the one that is gone, as often as it takes."""
        self._lookup_of_dead, self.stats = self.lookup_totals(), Stats()
        log.error("the engine process is gone (%s); %d requests go on in a new one", ended, len(self._flights))
        smaller = self.sizing.shrinks_after(ended)
        if guilty := self._replay.begin(self._flights.values(), nobodys_fault=smaller):
            self._convict(guilty)
        attempt = 0
        while True:
            await asyncio.sleep(RESTART_DELAY_S[min(attempt, len(RESTART_DELAY_S) - 1)])
            self.restarts += 1
            try:
                await self._launch()
                break
            except EngineGoneError as error:
                log.error("no new engine: %s", error)  # noqa: TRY400 - the message says it all
                self.message = str(error)
                if self.sizing.shrinks_after(error.ended):
                    continue
                if attempt >= 1:
                    await self._give_up()
                attempt += 1
        await self._set_state(State.SERVING)
        self._send_next()

    async def _give_up(self) -> None:
        """There may be an engine again some day, but nobody is made to wait for it."""
        await self._set_state(State.NOT_SERVING)
        self._replay.clear()
        for flight in list(self._flights.values()):
            self._fail(flight, f"the engine cannot be started: {self.message}")

    async def _set_state(self, state: State) -> None:
        self.state = state
        await self._on_state(state)

    # --- requests on their way ---

    def _send(self, command: Request | Cancel) -> None:
        assert self._process is not None, "there is one while SERVING"
        self._process.send(command)

    def _send_next(self) -> None:
        """Goes on with the replay, if there is one."""
        if self.state is State.SERVING and (flight := self._replay.next()):
            self._send(flight.resumed())

    def _on_event(self, event: Event) -> None:
        if isinstance(event, Beat):
            self.stats = event.stats
            self.way_back.note_delay((now := time.monotonic()) - event.sent, now)
            return
        assert not isinstance(event, Ready | NotReady), "only the first one is"
        if flight := self._flights.get(event.id):
            flight.take(event)
            if isinstance(event, Done | Failed):
                del self._flights[event.id]
        self._replay.heard(event)
        self._send_next()

    def _convict(self, flight: Flight) -> None:
        """An engine died while one request was on trial: that one is not tried again."""
        print_ = fingerprint(flight.request)
        log.error("request %s ended two engines and is given up", print_)
        self._fail(flight, f"this request ended the engine twice (fingerprint {print_}, see the log)")

    def _fail(self, flight: Flight, message: str) -> None:
        self._flights.pop(flight.request.id, None)
        kind = FailureKind.UNAVAILABLE if self.state is State.NOT_SERVING else FailureKind.INTERNAL
        flight.take(Failed(id=flight.request.id, kind=kind, message=message))


class _Same:
    """How long something has not changed."""

    def __init__(self) -> None:
        self._seen: object = None
        self._lasted_s = 0.0

    def for_s(self, now: object, passed_s: float) -> float:
        """Seconds since it was something else, with those that have passed since the last look."""
        self._lasted_s = self._lasted_s + passed_s if now == self._seen else 0.0
        self._seen = now
        return self._lasted_s


def fingerprint(request: Request) -> str:
    """Tells requests apart in a log without their text."""
    content = dataclasses.replace(request, id=0, arrived=0, deadline=None, budget_end=None, so_far=())
    return hashlib.sha256(repr(content).encode()).hexdigest()[:16]


def _end_if_broken(keeper: asyncio.Task[None]) -> None:
    """A server that cannot look after its engine must not go on as if it could."""
    if not keeper.cancelled() and (error := keeper.exception()):
        log.critical("the supervisor failed", exc_info=error)
        os.kill(os.getpid(), signal.SIGTERM)
