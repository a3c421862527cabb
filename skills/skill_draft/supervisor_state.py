"""An engine and its requests as a state machine: an event and its time in, actions out. No process, task or clock.

It decides when an engine is given up, when the next one is started, and what becomes of the requests: they resume in
the next engine from the tokens that their callers have, and a request that crashes engines is identified (`Replay`).
"""

from __future__ import annotations

import enum

from .engine import messages
from .engine.messages import (
    Beat,
    Cancel,
    Done,
    Failed,
    FailureKind,
    Noted,
    NotReady,
    Ready,
    Rows,
    RowsRead,
    Stats,
    WantRows,
)
from .engine_totals import EngineTotals
from .flight import Flight
from .replay import Replay
from .sizing import Sizing
from .supervisor_events import (
    Action,
    Encoding,
    Event,
    Fetch,
    Gone,
    Kill,
    Launch,
    Left,
    Log,
    Release,
    Rest,
    RowsFailed,
    Send,
    Submitted,
    Tick,
)
from .unchanged import Unchanged

RESTART_DELAY_S = (0.0, 0.0, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Delay before each new engine after one has died; the last value is repeated."""
MAX_FAILED_STARTS = 2
"""After this many failed starts in a row, requests fail at once instead of waiting for an engine."""


class State(enum.Enum):
    """What a replica can do at the moment; the values are the states that Health reports."""

    LOADING = "LOADING"
    """The first engine is being started."""
    SERVING = "SERVING"
    """There is an engine. New requests are sent to it, after those of an engine that has died."""
    REPLAYING = "RECOVERING"
    """An engine has died. Its requests, and new ones, wait for the next engine, which is being started."""
    RESTING = "RESTING"
    """The engine has ended, as there was nothing to do. The next request starts another one."""
    DOWN = "NOT_SERVING"
    """Engines fail to start. Another start is tried from time to time, but no request waits for it."""


class SupervisorState:
    """The engine of a server, across its processes, and the requests that it works on.

    Args:
        step_timeout_s: how long an engine may go without a step, or spend on preparing one request.
        start_timeout_s: how long an engine may take to load its model.
        idle_s: after how long without requests the engine ends; 0: never.
    """

    def __init__(self, *, step_timeout_s: float, start_timeout_s: float, idle_s: float = 0.0) -> None:
        self.state = State.LOADING
        self.message = ""
        """Why no engine has started; empty once there is one."""
        self.ready: Ready | None = None
        """What the last engine reported when it became ready."""
        self.totals = EngineTotals()
        self.restarts = 0
        self.sizing = Sizing()
        self.flights: dict[int, Flight] = {}
        """The requests that have not ended, by id."""
        self._step_timeout_s, self._start_timeout_s, self._idle_s = step_timeout_s, start_timeout_s, idle_s
        self._quiet, self._latest = Unchanged(), 0  # how long there are no requests; the id of the last one
        self._ends = False  # whether the process of a resting engine is still there
        self._replay = Replay()
        self._failed_starts = 0  # since there was an engine
        self._complaint = ""  # why the engine that is being started will not become ready
        self._heard = 0  # number of events received from engines
        self._silence, self._intake = Unchanged(), Unchanged()
        self._actions: list[Action] = []

    def on(self, event: Event, now: float) -> list[Action]:
        """Process an event; return the actions to perform, in this order."""
        self._actions = []
        match event:
            case Submitted(flight):
                self._on_submitted(flight)
            case Left(flight):
                self._on_left(flight)
            case Gone(how, out_of_memory):
                self._on_gone(how, out_of_memory=out_of_memory)
            case Tick(passed_s):
                self._on_tick(passed_s)
            case Rows() | RowsFailed() | Encoding():
                self._on_rows(event)
            case _:
                self._heard += 1
                self._on_heard(event, now)
        return self._actions

    @property
    def stats(self) -> Stats:
        """The figures of the current engine."""
        return self.totals.stats

    # --- requests ---

    def _on_submitted(self, flight: Flight) -> None:
        self.flights[flight.request.id], self._latest = flight, flight.request.id
        if self.state is State.DOWN:
            self._fail(flight, self._no_engine())
        elif self.state is State.SERVING and not self._replay.active:
            self._actions.append(Send(flight.request))
        else:
            self._replay.add(flight)
            self._wake()
            self._send_next()

    def _on_left(self, flight: Flight) -> None:
        if self.flights.pop(flight.request.id, None) is None:
            return
        if self.state is State.SERVING:
            self._actions.append(Send(Cancel(id=flight.request.id)))
        self._replay.leave(flight)
        self._send_next()

    def _send_next(self) -> None:
        """Send the next request of the replay, if there is one."""
        if self.state is State.SERVING and (flight := self._replay.next()):
            self._actions.append(Send(flight.rows or flight.resumed()))
            flight.rows = None

    def _on_rows(self, event: Rows | RowsFailed | Encoding) -> None:
        flight = self.flights.get(event.failed.id if isinstance(event, RowsFailed) else event.id)
        if flight is None or self.state is not State.SERVING:
            return  # the next engine will want them anew
        match event:
            case Encoding():
                flight.encoding(event.images, event.wait_s)
            case RowsFailed(failed):
                flight.end(failed)
                self._on_left(flight)
            case Rows():
                flight.encoding(0, 0.0)
                if self._replay.come_back(flight):
                    flight.rows = event
                    self._send_next()
                else:
                    self._actions.append(Send(event))

    def _fail(self, flight: Flight, message: str) -> None:
        id_ = flight.request.id
        del self.flights[id_]
        kind = FailureKind.UNAVAILABLE if self.state is State.DOWN else FailureKind.INTERNAL
        flight.end(Failed(id=id_, kind=kind, message=message))

    # --- events of the engine ---

    def _on_heard(self, event: messages.Event, now: float) -> None:
        match event:
            case Beat():
                self.totals.heard(event.stats)
            case Ready():
                self._on_ready(event)
            case NotReady():
                self._complaint = event.message
                self._actions.append(Kill(event.message))
            case WantRows():
                if flight := self.flights.get(event.id):
                    self._replay.step_aside(flight)
                    self._actions.append(Fetch(event))
                    self._send_next()
            case RowsRead():
                self._actions.append(Release(event))
            case Noted():
                pass
            case _:
                if flight := self.flights.get(event.id):
                    flight.take(event, now)
                    if isinstance(event, Done | Failed):
                        del self.flights[event.id]
                        self._replay.ended(flight)
                self._replay.heard(event)
                self._send_next()

    def _on_ready(self, ready: Ready) -> None:
        self.state, self.ready, self.message = State.SERVING, ready, ""
        self.sizing.measured(ready.sizes)
        self._send_next()

    # --- replacing the engine ---

    def _wake(self) -> None:
        """Start an engine for the requests that wait, if the last one rests and its process has gone."""
        if self.state is State.RESTING and not self._ends and self.flights:
            self.state, self._failed_starts = State.REPLAYING, 0
            self._launch(replaces=False)

    def _on_gone(self, how: str, *, out_of_memory: bool) -> None:
        if self.state is State.RESTING:
            self._ends = False
            self.totals.ended()
            self._actions.append(Release(None))
            self._wake()
            return
        smaller = out_of_memory and self.sizing.shrink()
        if self.state is State.SERVING:
            self._on_death(how, nobodys_fault=smaller)
        else:
            self._on_failed_start(how, counts=not smaller)
        if smaller:
            self._actions.append(Log(f"memory ran out ({how}): the next engine is smaller"))

    def _on_death(self, how: str, *, nobodys_fault: bool) -> None:
        self._actions.append(
            Log(f"the engine process is gone ({how}); {len(self.flights)} requests resume in a new one")
        )
        self._actions.append(Release(None))
        self.totals.ended()
        self.state, self._failed_starts = State.REPLAYING, 0
        if guilty := self._replay.begin(self.flights.values(), nobodys_fault=nobodys_fault):
            self._give_up_request(guilty)
        self._launch()

    def _on_failed_start(self, how: str, *, counts: bool) -> None:
        self.message = self._complaint or f"the engine process ended while loading the model ({how})"
        if self.state is State.LOADING:
            if counts:
                self.state = State.DOWN  # for good: the server exits and reports why
            else:
                self._launch()
            return
        self._actions.append(Log(f"no new engine: {self.message}"))
        self._failed_starts += counts
        if self._failed_starts >= MAX_FAILED_STARTS:
            self._give_up()
        self._launch()

    def _give_up(self) -> None:
        self.state = State.DOWN
        self._replay.clear()
        for flight in list(self.flights.values()):
            self._fail(flight, self._no_engine())

    def _no_engine(self) -> str:
        return f"the engine cannot be started: {self.message}"

    def _launch(self, *, replaces: bool = True) -> None:
        self._complaint = ""
        self._silence, self._intake, self._quiet = Unchanged(), Unchanged(), Unchanged()
        self.restarts += replaces and self.state is not State.LOADING
        self._actions.append(Launch(RESTART_DELAY_S[min(self._failed_starts, len(RESTART_DELAY_S) - 1)]))

    def _give_up_request(self, flight: Flight) -> None:
        """Give up a request during whose second try the engine died too."""
        print_ = flight.fingerprint
        self._actions.append(Log(f"request {print_} crashed two engines and is given up"))
        self._fail(flight, f"this request ended the engine twice (fingerprint {print_}, see the log)")

    # --- time ---

    def _on_tick(self, passed_s: float) -> None:
        """Kill an engine that does not become ready, makes no step, or whose intake is stuck on one request."""
        silent_s = self._silence.for_s(self._heard, passed_s)
        busy_since = self.stats.intake_busy_since
        busy_s = self._intake.for_s(busy_since, passed_s) if busy_since is not None else 0.0
        quiet_s = self._quiet.for_s((self._latest, bool(self.flights)), passed_s)
        if self.state is State.RESTING:
            if silent_s > self._step_timeout_s:
                self._actions.append(Kill("it does not end by itself"))
        elif self.state is not State.SERVING:
            if silent_s > self._start_timeout_s:
                self._complaint = f"the model did not load within {self._start_timeout_s:g} s"
                self._kill(self._complaint)
        elif silent_s > self._step_timeout_s:
            self._kill(f"no step for {silent_s:.1f} s")
        elif busy_s > self._step_timeout_s:
            self._kill(f"a request has been prepared for {busy_s:.1f} s")
        elif self._idle_s and not self.flights and quiet_s >= self._idle_s:
            self.state, self._ends = State.RESTING, True
            self._actions.append(Rest())

    def _kill(self, why: str) -> None:
        self._actions += [Log(f"{why}: killing the engine"), Kill(why)]
