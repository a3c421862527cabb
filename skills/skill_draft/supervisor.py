"""Supervise the engine process: replace it when it dies or hangs, and resume its requests.

llama.cpp can abort or hang in ways that Python cannot catch. So liveness is progress: an engine that has exited, or
that has made no step within a bound, is replaced, and every running request resumes in the new one from the tokens
that its caller has. `SupervisorState` decides that; this module has the processes and the tasks.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import logging
import os
import signal
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

from skills.runtime.patience import TICK_S, tick
from skills.runtime.resources import memory_kills, memory_limit
from skills.runtime.way_back import WayBack

from .awaited_flight import AwaitedFlight
from .engine import messages
from .engine.messages import (
    Beat,
    EngineConfig,
    Finish,
    Forget,
    Hurry,
    Noted,
    Priority,
    Ready,
    Request,
    RowsRead,
    Stats,
    UseCpus,
    WantRows,
)
from .engine.messages import Event as EngineEvent
from .engine_process import EngineGoneError, EngineProcess
from .engine_start import ENGINE_MODULE
from .engine_totals import EngineTotals
from .flight import Flight
from .identity import Identity
from .sizing import Sizing
from .supervisor_events import (
    Event,
    Fetch,
    Gone,
    Kill,
    Launch,
    Left,
    Log,
    Release,
    Rest,
    Send,
    Submitted,
    Tick,
)
from .supervisor_state import State, SupervisorState

log = logging.getLogger("sarai.draft")

# Time for an engine to write its prefixes when the server ends.
_FINISH_S = 3.0


class RowsSource(Protocol):
    """Gets the rows of images that engines want."""

    def want(self, want: WantRows, tell: Callable[[Event], None]) -> None:
        """Get rows, and tell of them: `Encoding` until there are `Rows`, or `RowsFailed`."""

    def release(self, read: RowsRead | None) -> None:
        """Release rows that were told of; None: all of them, as the engine is gone."""


class Supervisor:
    """The engine as the server sees it: submit a request, leave it, and read the engine's state.

    Args:
        config: the configuration that engines are started with.
        step_timeout_s: how long an engine may go without a step, or spend on preparing one request.
        start_timeout_s: how long an engine may take to load its model.
        idle_s: after how long without requests the engine ends until the next one; 0: never.
        on_state: called with each new state.
        engine_module: the module that an engine process runs.
        rows: gets the rows of images, if the model reads any.
        identity: what determines answers, which is noted at each start of an engine.
    """

    def __init__(
        self,
        config: EngineConfig,
        *,
        step_timeout_s: float,
        start_timeout_s: float,
        idle_s: float = 0.0,
        on_state: Callable[[State], Awaitable[None]],
        engine_module: str = ENGINE_MODULE,
        rows: RowsSource | None = None,
        identity: Identity | None = None,
    ) -> None:
        self._rows, self._identity = rows, identity
        self.way_back = WayBack()
        self._core = SupervisorState(step_timeout_s=step_timeout_s, start_timeout_s=start_timeout_s, idle_s=idle_s)
        self._config, self._module, self._on_state = config, engine_module, on_state
        self._tick_s = min(TICK_S, step_timeout_s / 4)
        self._ids = itertools.count(1)
        self._process: EngineProcess | None = None
        self._spare: EngineProcess | None = None  # waits for its model while there is nothing to do
        self._launch: Launch | None = Launch(0.0)
        self._launched = asyncio.Event()
        self._launched.set()
        self._busy_s = time.monotonic()
        self._serving = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None

    # --- for the server ---

    async def start(self) -> Ready:
        """Start the first engine.

        Raises:
            EngineGoneError: It does not become ready.
        """
        if self._identity:
            loop = asyncio.get_running_loop()
            self._identity.on_known = lambda: loop.call_soon_threadsafe(self._identify)
            self._identity.before_load()
        self._keeper = asyncio.create_task(self._keep())
        waiting = asyncio.create_task(self._serving.wait())
        try:
            await asyncio.wait((waiting, self._keeper), return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
        if not self.ready:
            await self._keeper
            raise EngineGoneError(self.message)
        self._keeper.add_done_callback(_end_if_broken)
        return self.ready

    async def close(self) -> None:
        """End the engine."""
        if self._keeper:
            self._keeper.cancel()
        if self._process and self._config.prefix_dir and self.state is State.SERVING:
            self._process.send(Finish())
            await self._process.ended(within_s=_FINISH_S)
        for process in filter(None, (self._process, self._spare)):
            await process.end("the server ends")

    def next_id(self) -> int:
        """Return the id for a new request."""
        return next(self._ids)

    def submit(self, request: Request) -> AwaitedFlight:
        """Submit a request; it is done when the events of the returned flight end."""
        self.send(flight := AwaitedFlight(request))
        return flight

    def send(self, flight: Flight) -> None:
        """Submit the request of a flight, which gets its events."""
        self._decide(Submitted(flight))

    def hurry(self, flight: Flight) -> None:
        """Make a batch request interactive."""
        flight.request = dataclasses.replace(flight.request, priority=Priority.INTERACTIVE)
        if self._process and self.state is State.SERVING:
            self._process.send(Hurry(id=flight.request.id))

    def leave(self, flight: Flight) -> None:
        """Release a flight: its caller has finished with it, or has gone. Idempotent."""
        self._decide(Left(flight))

    def use_cpus(self, count: int) -> None:
        """Change the number of CPUs that this engine, and those that replace it, may use."""
        self._config = dataclasses.replace(self._config, threads=count)
        if self._process:
            self._process.send(UseCpus(count=count))

    def forget_prefixes(self) -> None:
        """Let the engine write no prefix that it has noticed so far."""
        if self._process:
            self._process.send(Forget())

    def _identify(self) -> None:
        """Tell this engine, and those that replace it, what determines their cells, if they keep any."""
        if not self._config.prefix_dir or not self._identity:
            return
        digest = self._identity.digest or b""
        self._config = dataclasses.replace(self._config, identity=digest)
        if self._process:
            self._process.send(messages.Identity(digest=digest))

    @property
    def state(self) -> State:
        """What this replica can do at the moment."""
        return self._core.state

    @property
    def message(self) -> str:
        """Why no engine has started; empty once there is one."""
        return self._core.message

    @property
    def ready(self) -> Ready | None:
        """What the last engine reported when it became ready."""
        return self._core.ready

    @property
    def stats(self) -> Stats:
        """The counters of the current engine."""
        return self._core.stats

    @property
    def restarts(self) -> int:
        """Engines started after the first one."""
        return self._core.restarts

    @property
    def sizing(self) -> Sizing:
        """What has been learned about the engines' memory."""
        return self._core.sizing

    @property
    def pids(self) -> list[int]:
        """The processes of this replica: the server, and its engine or the one that waits for its model."""
        return [os.getpid(), *(process.pid for process in (self._process, self._spare) if process)]

    @property
    def totals(self) -> EngineTotals:
        """The figures of all its engines."""
        return self._core.totals

    @property
    def idle_s(self) -> float:
        """Seconds since the last request ended, or since there is an engine; 0 while there are any requests."""
        return 0.0 if self._core.flights else time.monotonic() - self._busy_s

    @property
    def _numerics(self) -> str:
        return "exact" if self._config.exact else "fast"

    # --- performing what the state machine decides ---

    def _decide(self, event: Event) -> None:  # noqa: C901  # a case for each action
        now = time.monotonic()
        if self._core.flights or self.state is State.LOADING:
            self._busy_s = now
        for action in self._core.on(event, now):
            match action:
                case Launch():
                    self._launch = action
                    self._launched.set()
                case Log(text):
                    log.error("%s", text)
                case Send(command):
                    assert self._process is not None, "there is a process while SERVING"
                    self._process.send(command)
                case Rest():
                    assert self._process is not None, "only a tick lets it rest"
                    log.info("nothing to do: the engine ends until the next request")
                    if self._config.prefix_dir:
                        self._process.send(Finish())  # it writes its prefixes first
                    else:
                        self._process.kill("it had nothing to do")
                case Kill(why):
                    assert self._process is not None, "only ticks and events kill, and both need a process"
                    self._process.kill(why)
                case Fetch(want):
                    assert self._rows is not None, "no image is sent to an engine without a source of rows"
                    self._rows.want(want, self._decide)
                case Release(read):
                    if self._rows is not None:
                        self._rows.release(read)

    async def _keep(self) -> None:
        """Run one engine after another, until none is to be started any more."""
        while self._launch or self.state is State.RESTING:
            if not self._launch:  # its imports take longer than loading a small model
                self._process = None
                with contextlib.suppress(OSError):  # there is time until it is needed
                    self._spare = await EngineProcess.start(self._module, self._numerics)
            await self._launched.wait()
            launch, self._launch = self._launch, None
            self._launched.clear()
            assert launch is not None
            await asyncio.sleep(launch.after_s)
            await self._tell(await self._run_engine())

    async def _run_engine(self) -> Gone:
        """Run an engine from its start, or the one that waits for its model, to its end."""
        kills = memory_kills()
        try:
            process = self._process = self._spare or await EngineProcess.start(self._module, self._numerics)
        except OSError as error:  # too many processes, or no memory, for the moment
            return Gone(f"cannot be started: {error}")
        self._spare = None
        process.send(self.sizing.of_next(self._config, memory_limit()))
        watch = asyncio.create_task(self._watch())
        try:
            while True:
                for event in await process.receive():
                    self._note(event)
                    await self._tell(event)
        except EngineGoneError:
            pass
        finally:
            watch.cancel()
        ended = await process.ended()
        return Gone(str(ended), out_of_memory=ended.perhaps_out_of_memory and memory_kills() != kills)

    async def _tell(self, event: Event) -> None:
        before = self.state
        self._decide(event)
        if self.state is not before:
            if self._identity and self.state is State.SERVING:
                self._identity.after_load()
            elif self._identity and self.state is State.REPLAYING:
                self._identity.before_load()
            self._identify()
            await self._on_state(self.state)
            if self.state is State.SERVING:
                self._serving.set()

    def _note(self, event: EngineEvent) -> None:
        match event:
            case Ready(notes=notes):
                for note in notes:
                    log.info("%s", note)
            case Noted(text=text):
                log.warning("%s", text)
            case Beat(sent=sent):
                self.way_back.note_delay((now := time.monotonic()) - sent, now)

    async def _watch(self) -> None:
        while True:
            self._decide(Tick(await tick(self._tick_s)))


def _end_if_broken(keeper: asyncio.Task[None]) -> None:
    """End a server whose supervisor has failed: it must not continue without supervising its engine."""
    if not keeper.cancelled() and (error := keeper.exception()):
        log.critical("the supervisor failed", exc_info=error)
        os.kill(os.getpid(), signal.SIGTERM)
