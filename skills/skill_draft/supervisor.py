"""Keeps an engine process alive and the requests going.

llama.cpp can abort or wedge for reasons that no Python can catch. So liveness is progress: an engine that has gone,
or that has made no step within a bound, is replaced, and every running request goes on in the new one from the tokens
that its caller has.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import enum
import hashlib
import itertools
import logging
import os
import signal
import time
from collections import deque
from collections.abc import Awaitable, Callable

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
    Piece,
    Queued,
    Ready,
    Request,
    Stats,
)
from .engine_process import EngineGoneError, EngineProcess, how_it_ended
from .engine_start import ENGINE_MODULE
from .flight import Flight

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
        self._accepting = False
        self._suspects: deque[Flight] = deque()
        self._on_trial: Flight | None = None
        self._keeper: asyncio.Task[None] | None = None

    # --- for the server ---

    async def start(self) -> Ready:
        """Starts the first engine; raises `EngineGoneError` if it does not get ready."""
        ready = await self._launch()
        self._keeper = asyncio.create_task(self._keep())
        self._keeper.add_done_callback(_end_if_broken)
        await self._set_state(State.SERVING)
        return ready

    async def close(self) -> None:
        """Ends the engine."""
        if self._keeper:
            self._keeper.cancel()
        if self._process:
            await self._process.end()

    @property
    def pids(self) -> list[int]:
        """The processes of this replica."""
        return [os.getpid(), *([self._process.process.pid] if self._process else [])]

    def next_id(self) -> int:
        """A number for a new request."""
        return next(self._ids)

    def submit(self, request: Request) -> Flight:
        """Sends a request on its way; it is done when its flight's events end."""
        flight = self._flights[request.id] = Flight(request)
        if self._accepting and self._process and not self._suspects and not self._on_trial:
            self._process.send(request)
        elif self.state is State.NOT_SERVING:
            self._fail(flight, f"the engine cannot be started: {self.message}")
        else:
            self._suspects.append(flight)  # after the ones that were running when the engine died
        return flight

    def leave(self, flight: Flight) -> None:
        """The caller is done with a flight, or has gone."""
        if self._flights.pop(flight.request.id, None) is None:
            return
        with contextlib.suppress(ValueError):
            self._suspects.remove(flight)
        if self._process and self._accepting:
            self._process.send(Cancel(id=flight.request.id))
        if self._on_trial is flight:
            self._next_trial()

    def lookup_totals(self) -> tuple[int, int]:
        """Lookup tokens tried and accepted since the start, over all engines."""
        tried, right = self._lookup_of_dead
        return tried + self.stats.lookup_tokens, right + self.stats.lookup_accepted

    # --- keeping an engine alive ---

    async def _launch(self) -> Ready:
        process = self._process = await EngineProcess.start(self._module, "exact" if self._config.exact else "fast")
        process.send(self._config)
        try:
            first = (await asyncio.wait_for(process.receive(), self._start_timeout_s))[0]
        except TimeoutError:
            await process.end()
            raise EngineGoneError(f"the model did not load within {self._start_timeout_s:g} s") from None
        except EngineGoneError:
            code = await process.end()
            raise EngineGoneError(f"the engine process ended while loading the model ({how_it_ended(code)})") from None
        if isinstance(first, NotReady):
            await process.end()
            raise EngineGoneError(first.message)
        assert isinstance(first, Ready)
        self.ready, self.stats, self._accepting = first, Stats(), True
        return first

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
            await self._replace()

    async def _watch(self, process: EngineProcess) -> None:
        """Kills an engine that makes no step, or whose intake is stuck on one request."""
        while True:
            await asyncio.sleep(min(0.25, self._step_timeout_s / 4))
            now = time.monotonic()
            busy_since = self.stats.intake_busy_since
            if now - process.last_beat > self._step_timeout_s:
                log.error("no step for %.1f s: killing the engine", now - process.last_beat)
            elif busy_since is not None and now - busy_since > self._step_timeout_s:
                log.error("a request has been prepared for %.1f s: killing the engine", now - busy_since)
            else:
                continue
            process.process.kill()
            return

    async def _replace(self) -> None:
        """A new engine for the one that is gone, as often as it takes."""
        self._accepting = False
        assert self._process is not None
        how = how_it_ended(await self._process.end())
        tried, right = self._lookup_of_dead
        self._lookup_of_dead = (tried + self.stats.lookup_tokens, right + self.stats.lookup_accepted)
        self.stats = Stats()
        log.error("the engine process is gone (%s); %d requests go on in a new one", how, len(self._flights))
        await self._set_state(State.RECOVERING)
        self._convict()
        self._suspects = deque(sorted(self._flights.values(), key=lambda f: f.request.id))
        for attempt in itertools.count():
            await asyncio.sleep(RESTART_DELAY_S[min(attempt, len(RESTART_DELAY_S) - 1)])
            self.restarts += 1
            try:
                await self._launch()
                break
            except EngineGoneError as error:
                log.error("no new engine: %s", error)  # noqa: TRY400 - the message says it all
                self.message = str(error)
                if attempt >= 1:
                    await self._set_state(State.NOT_SERVING)
                    for flight in list(self._flights.values()):
                        self._fail(flight, f"the engine cannot be started: {error}")
        self.message = ""
        await self._set_state(State.SERVING)
        self._next_trial()

    async def _set_state(self, state: State) -> None:
        self.state = state
        await self._on_state(state)

    # --- which request was it ---

    def _convict(self) -> None:
        """An engine died while one request was on trial: that one is not tried again."""
        if self._on_trial is None:
            return
        flight, self._on_trial = self._on_trial, None
        print_ = fingerprint(flight.request)
        log.error("request %s ended two engines and is given up", print_)
        self._fail(flight, f"this request ended the engine twice (fingerprint {print_}, see the log)")

    def _next_trial(self) -> None:
        """Sends the next of the requests that were running when an engine died.

        One after the other, each when the one before has made progress: so the one that kills is known by it. Reading
        them all again is bound by the CPU anyway, so this costs no time.
        """
        self._on_trial = None
        if self._suspects and self._process and self._accepting:
            self._on_trial = self._suspects.popleft()
            self._on_trial.admitted_before = self._on_trial.admitted is not None
            self._process.send(self._on_trial.resumed())

    # --- events ---

    def _on_event(self, event: Event) -> None:
        if isinstance(event, Beat):
            self.stats = event.stats
            self.way_back.note_delay((now := time.monotonic()) - event.sent, now)
            return
        flight = self._flights.get(getattr(event, "id", -1))
        if flight is None:
            return
        flight.take(event)
        if isinstance(event, Done | Failed):
            del self._flights[flight.request.id]
        passed = (Piece, Done, Failed) if flight.admitted_before else (Queued, Piece, Done, Failed)
        if flight is self._on_trial and isinstance(event, passed):
            self._next_trial()

    def _fail(self, flight: Flight, message: str) -> None:
        self._flights.pop(flight.request.id, None)
        kind = FailureKind.UNAVAILABLE if self.state is State.NOT_SERVING else FailureKind.INTERNAL
        flight.take(Failed(id=flight.request.id, kind=kind, message=message))


def fingerprint(request: Request) -> str:
    """Tells requests apart in a log without their text."""
    content = dataclasses.replace(request, id=0, arrived=0, deadline=None, budget_end=None, so_far=())
    return hashlib.sha256(repr(content).encode()).hexdigest()[:16]


def _end_if_broken(keeper: asyncio.Task[None]) -> None:
    """A server that cannot look after its engine must not go on as if it could."""
    if not keeper.cancelled() and (error := keeper.exception()):
        log.critical("the supervisor failed", exc_info=error)
        os.kill(os.getpid(), signal.SIGTERM)
