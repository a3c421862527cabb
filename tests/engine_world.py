"""A server's engines in virtual time: processes that do what a test says, and callers that check what they receive.

The text of a request says what an engine does with it: `write` gives a token per step, `KILL` ends the engine on
arrival, `LATER` at the third token, `HANG` stops the intake, `REFUSE` fails. `LARGE3` ends the engine as the kernel
does when memory runs out, unless it was made smaller three times. `SEE` needs the rows of an image, which take a while;
`BLIND` those of one that cannot be encoded, and `POISON` ends the engine with them. A token's id is its place in the
answer.

After each event it checks what must always hold: no token comes twice, each request ends once, nothing is sent for
callers that have left, engines are killed for good reason, and only a request on trial is found guilty.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

from skills.runtime.patience import TICK_S
from skills.skill_draft.engine import messages
from skills.skill_draft.engine.messages import (
    Admitted,
    Beat,
    Cancel,
    Done,
    Ending,
    EngineConfig,
    Failed,
    FailureKind,
    FinishReason,
    Image,
    NotReady,
    Piece,
    Queued,
    Ready,
    Request,
    Rows,
    RowsRead,
    Sizes,
    Stats,
    Tokens,
    WantRows,
)
from skills.skill_draft.flight import Flight
from skills.skill_draft.sizing import MAX_STEPS
from skills.skill_draft.supervisor_events import (
    Action,
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
from skills.skill_draft.supervisor_state import State, SupervisorState

STEP_TIMEOUT_S, START_TIMEOUT_S = 2.0, 5.0
READ_STEPS = 2
LATE_S = 3 * TICK_S
"""How much sooner an engine may be killed: a check may come a tick late, and a stop of both counts as two ticks."""
ENCODE_S = 4.0
ENDLESS = 1_000_000  # tokens
SIZES = Sizes(n_ctx=1024, n_cells=2048, n_batch=512, slots=16, n_slots=50, n_outputs=50, block_cells=64)
GUILTY = "ended the engine twice"


class Caller(Flight):
    """A request, and what its caller has received."""

    def __init__(self, request: Request, world: World) -> None:
        super().__init__(request)
        self.world = world
        self.tokens: list[int] = []
        self.ends: list[Done | Failed] = []
        self.left = self.late = False
        self.engines_lost = 0
        """How many engines died while it was open."""

    def deliver(self, event: messages.Event) -> None:
        assert not self.ends, "an event came after the end"
        assert not self.left, "an event came for a caller that has left"
        if isinstance(event, Piece):
            self.tokens += event.tokens.token_ids
            assert self.tokens == list(range(len(self.tokens))), "a token came twice or is missing"
        elif isinstance(event, Done | Failed):
            self.ends.append(event)
            if isinstance(event, Failed) and GUILTY in event.message:
                self.world.check_convicted(self)

    @property
    def open(self) -> bool:
        return not self.ends and not self.left

    @property
    def failed(self) -> Failed | None:
        return self.ends[0] if self.ends and isinstance(self.ends[0], Failed) else None


@dataclass(eq=False)
class Engine:
    """An engine process: what it was sent, what it works on, and its state."""

    smaller: int
    inbox: list[Request | Cancel | Rows] = field(default_factory=list)
    running: dict[int, tuple[Request, Tokens]] = field(default_factory=dict)
    sent: set[int] = field(default_factory=set)
    """The requests that were sent to it."""
    unproven: set[int] = field(default_factory=set)
    """Those of them about which it has reported nothing yet, or nothing beyond what an earlier engine reported."""
    aside: set[int] = field(default_factory=set)
    """Those whose trial goes on once the rows of their images are there."""
    blind: dict[int, bool] = field(default_factory=dict)
    """Requests without the rows that they need, and whether they have asked for them."""
    unread: dict[int, int] = field(default_factory=dict)
    """How many steps of prefill each request still needs."""
    ready: bool = False
    ends: bool = False
    """Whether it was told to end, as there is nothing to do."""
    refuses: bool = False
    frozen_until: float = 0.0
    stuck: bool = False
    """Whether its intake has hung."""
    hidden_s: float = 0.0
    """How long it has been silent although it had time to report."""
    stuck_s: float = 0.0


class World:
    """Engines, their callers, and a clock."""

    def __init__(self, *failures: str, idle_s: float = 0.0) -> None:
        self.now = 1000.0
        self.state = SupervisorState(step_timeout_s=STEP_TIMEOUT_S, start_timeout_s=START_TIMEOUT_S, idle_s=idle_s)
        self.rests = 0
        """How many engines have ended because there was nothing to do."""
        self.engine: Engine | None = None
        self.launch_at: float | None = self.now
        self.failures = list(failures)
        """How the next engines fail to start: `refuse`, `die` or `hang`. Later ones work."""
        self.callers: list[Caller] = []
        self.ended_by: dict[str, int] = {}
        """How many engines requests of each text have ended."""
        self.fetching: dict[int, float] = {}
        """When the rows will be there that requests wait for."""
        self.encoded: set[int] = set()
        """Requests whose images have been encoded: that outlives engines."""
        self.departures = self.released = 0
        self.log: list[str] = []
        self._ids = itertools.count(1)
        self.wait(TICK_S)

    # --- events ---

    def tell(self, event: Event) -> None:
        killed = ""
        for action in self.state.on(event, self.now):
            killed = self._obey(action) or killed
        self.check()
        if killed:
            self.die(f"killed: {killed}")

    def _obey(self, action: Action) -> str:
        """Carry out an action; for a kill, only return its reason."""
        engine = self.engine
        match action:
            case Log(text):
                self.log.append(text)
            case Launch(after_s):
                assert engine is None, "a second engine was launched"
                assert self.launch_at is None
                self.launch_at = self.now + after_s
            case Send(command):
                assert engine is not None
                assert engine.ready
                engine.inbox.append(command)
                self._check_command(engine, command)
            case Fetch(want):
                self.fetching.setdefault(want.id, self.now + (ENCODE_S if want.id not in self.encoded else 0.0))
            case Release(None):
                self.released += 1
            case Rest():
                assert engine is not None
                assert not any(caller.open for caller in self.callers)
                engine.ends, engine.ready = True, False
                self.rests += 1
            case Kill(why):
                assert engine is not None
                loads = not (engine.ready or engine.ends)
                silent = engine.hidden_s >= (START_TIMEOUT_S if loads else STEP_TIMEOUT_S) - LATE_S
                assert silent or engine.stuck_s >= STEP_TIMEOUT_S - LATE_S or engine.refuses, "a healthy engine"
                return why
        return ""

    def submit(self, text: str = "write", max_tokens: int = ENDLESS) -> Caller:
        caller = Caller(Request(id=next(self._ids), raw=text, max_tokens=max_tokens), self)
        self.callers.append(caller)
        self.tell(Submitted(caller))
        return caller

    def leave(self, caller: Caller) -> None:
        caller.left = True
        self.departures += 1
        self.tell(Left(caller))

    def meet_deadline(self, caller: Caller) -> None:
        """End the call's time. The server reports its departure a moment later."""
        caller.time_is_up()
        caller.late = True

    def die(self, how: str, *, out_of_memory: bool = False, cause: str = "") -> None:
        """End the engine. The server still reads what it has sent; what was sent to it is lost."""
        if self.engine is None:
            return
        self.ended_by[cause] = self.ended_by.get(cause, 0) + 1
        for caller in self.callers:
            caller.engines_lost += caller.open
        self.dying, self.engine, self.out_of_memory = self.engine, None, out_of_memory
        self.tell(Gone(how, out_of_memory))

    def wait(self, seconds: float) -> None:
        """Let time pass, tick by tick."""
        for _ in range(max(1, round(seconds / TICK_S))):
            self.now += TICK_S
            if self.launch_at is not None and self.launch_at <= self.now:
                self._start()
            elif self.engine is not None and self.engine.ends:
                self.engine = None
                self.tell(Gone("it had nothing to do"))
            elif self.engine is not None:
                self._work()
            self._encode()
            if self.engine is not None:
                self.tell(Tick(TICK_S))
            for caller in self.callers:
                if caller.late and not caller.left:
                    self.leave(caller)

    def stop_together(self, seconds: float, *, server_first: bool) -> None:
        """Stop the server and its engine, and let them continue."""
        self.now += seconds
        for turn in (server_first, not server_first):
            if turn and self.engine is not None:
                self.tell(Tick(min(seconds, 2 * TICK_S)))
            elif self.engine is not None:
                self._work(2 * TICK_S)

    def _encode(self) -> None:
        """Images are encoded whether or not there is an engine, and its requests fail if they cannot be."""
        for id_ in [id_ for id_, until in self.fetching.items() if until <= self.now]:
            del self.fetching[id_]
            engine = self.engine
            asked = engine is not None and engine.blind.get(id_, False)
            if self.callers[id_ - 1].request.raw != "BLIND":
                self.encoded.add(id_)
                if asked:
                    self.tell(Rows(id=id_, key=b"", offset=0))
            elif asked:
                failed = Failed(id=id_, kind=FailureKind.INVALID, message="it is no image")
                self.tell(RowsFailed(failed))

    # --- engines ---

    def _start(self) -> None:
        self.launch_at = None
        config = self.state.sizing.of_next(EngineConfig(model="any"), limit=1e9)
        self.engine = Engine(config.memory_kills)
        match self.failures.pop(0) if self.failures else "":
            case "":
                self.engine.ready = True
                self.tell(Ready(model="any", numerics="exact", notes=(), sizes=config.sizes or SIZES))
            case "refuse":
                self.engine.refuses = True
                self.tell(NotReady(message="the model is broken"))
            case "die":
                self.die("exit code 3")

    def _work(self, passed_s: float = TICK_S) -> None:
        """Make one step, if the engine can."""
        engine = self.engine
        assert engine is not None
        engine.stuck_s += passed_s if engine.stuck else 0.0
        if engine.frozen_until >= self.now or not engine.ready:
            engine.hidden_s += passed_s
            return
        engine.hidden_s = 0.0
        for part in (self._write, self._take_in):
            part(engine)
            if self.engine is not engine:
                return
        busy_since = 1.0 if engine.stuck else None
        self.tell(Beat(stats=Stats(active=len(engine.running), intake_busy_since=busy_since), sent=self.now))

    def _take_in(self, engine: Engine) -> None:
        while engine.inbox and not engine.stuck and self.engine is engine:
            command = engine.inbox.pop(0)
            if isinstance(command, Cancel):
                engine.running.pop(command.id, None)
                engine.unproven.discard(command.id)
                engine.aside.discard(command.id)
            elif isinstance(command, Rows):
                if self.callers[command.id - 1].request.raw == "POISON":
                    self.die("exit code 9", cause="POISON")
                    return
                engine.blind.pop(command.id, None)
                self.tell(RowsRead(id=command.id, key=b""))
            else:
                self._begin(engine, command)

    def _begin(self, engine: Engine, request: Request) -> None:
        text = request.raw or ""
        if text.startswith("LARGE") and engine.smaller < int(text.removeprefix("LARGE")):
            self.die("SIGKILL, perhaps out of memory", out_of_memory=True, cause=text)
        elif text == "KILL":
            self.die("exit code 9", cause=text)
        elif text == "HANG":
            engine.stuck = True
        elif text == "REFUSE":
            self._say(engine, Failed(id=request.id, kind=FailureKind.INVALID, message="it is refused"))
        else:
            engine.unread[request.id] = READ_STEPS
            engine.running[request.id] = request, request.so_far[0] if request.so_far else Tokens()
            if text in ("SEE", "POISON", "BLIND"):
                engine.blind[request.id] = False
            self._say(engine, Queued(id=request.id))
            if self.engine is engine:
                self._say(engine, Admitted(id=request.id, prompt_tokens=1, cached_tokens=0, queue_s=0))

    def _write(self, engine: Engine) -> None:
        for id_, (request, tokens) in list(engine.running.items()):
            if engine.unread[id_]:
                engine.unread[id_] -= 1
                continue
            if id_ in engine.blind:
                self._ask_for_rows(engine, id_)
                continue
            place = len(tokens.token_ids)
            if request.raw == "LATER" and place == 2:
                self.die("exit code 9", cause="LATER")
                return
            new = Tokens(token_ids=(place,), logprobs=(0.0,))
            engine.running[id_] = request, tokens + new
            self._say(engine, Piece(id=id_, candidate=0, text="x", tokens=new))
            if place + 1 == request.max_tokens:
                del engine.running[id_]
                ending = Ending(text="x" * (place + 1), reason=FinishReason.LENGTH, tokens=tokens + new)
                self._say(engine, Done(id=id_, endings=(ending,)))

    def _ask_for_rows(self, engine: Engine, id_: int) -> None:
        if not engine.blind[id_]:
            engine.blind[id_] = True
            if id_ in engine.unproven:
                engine.unproven.remove(id_)
                engine.aside.add(id_)
            self.tell(WantRows(id=id_, image=Image(key=b"", across=1, down=1)))
            self._encode()

    def _say(self, engine: Engine, event: Queued | Admitted | Piece | Done | Failed) -> None:
        caller = self.callers[event.id - 1]
        if not isinstance(event, Admitted) and (caller.admitted is None or not isinstance(event, Queued)):
            engine.unproven.discard(event.id)
        self.tell(event)

    # --- invariants ---

    def check(self) -> None:
        open_ = {caller.request.id for caller in self.callers if caller.open}
        late = {caller.request.id for caller in self.callers if caller.late and not caller.left}
        assert open_ <= set(self.state.flights) <= open_ | late
        if self.state.state is State.DOWN:
            assert not self.state.flights, "a request waits for an engine that does not start"
        assert (self.engine is not None and self.engine.ready) == (self.state.state is State.SERVING)
        if self.state.state is State.RESTING and open_:
            assert self.engine is not None, "a request waits, and no engine is started for it"
        if self.engine is not None and self.engine.ready:
            assert self.engine.unproven or open_ <= self.engine.sent, "a request waits although no other is on trial"

    def _check_command(self, engine: Engine, command: Request | Cancel | Rows) -> None:
        match command:
            case Request():
                self._check_sent(command)
                engine.sent.add(command.id)
                engine.unproven.add(command.id)
            case Rows(id=id_):
                assert self.callers[id_ - 1].open or self.callers[id_ - 1].late
                assert engine.blind.get(id_), "this engine has asked for them"
                if id_ in engine.aside:
                    engine.aside.remove(id_)
                    engine.unproven.add(id_)

    def _check_sent(self, request: Request) -> None:
        caller = self.callers[request.id - 1]
        assert caller.open or caller.late, "a request was sent after its end"
        assert not caller.left, "a request was sent after its caller had left"
        sent = [token for tokens in request.so_far for token in tokens.token_ids]
        assert sent == caller.tokens, "the answer so far differs from what the caller has"

    def check_convicted(self, caller: Caller) -> None:
        """Check the verdict: two engines died with this request, and in the second one it alone was still on trial."""
        assert caller.engines_lost >= 2
        assert self.dying.unproven == {caller.request.id}
        assert not self.out_of_memory or self.state.sizing.kills > MAX_STEPS, "memory is no request's fault"

    def come_to_rest(self) -> None:
        """Let engines start again; check that every request ends, a new one is answered, and nothing is left to do."""
        self.failures.clear()
        for caller in self.callers:
            if caller.open and caller.request.max_tokens == ENDLESS:
                self.leave(caller)
        last = self.submit(max_tokens=3) if self.state.state is not State.DOWN else None
        for _ in range(100):
            self.wait(5.0)
            if not any(caller.open for caller in self.callers) and self.state.state in (State.SERVING, State.RESTING):
                break
        assert self.state.state in (State.SERVING, State.RESTING)
        assert last is None or last.ends
        last = self.submit(max_tokens=3)
        self.wait(2.0)
        assert isinstance(last.ends[0], Done), "a new request was not answered"
        assert last.engines_lost == 0
        assert all(caller.left or len(caller.ends) == 1 for caller in self.callers), "a request did not end once"
        assert self.engine is None or not self.engine.running, "the engine works for a caller that has left"
