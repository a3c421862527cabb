"""The supervisor's state under everything that can happen to engines and requests, in any order and at any time."""

from __future__ import annotations

import math

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from skills.runtime.patience import TICK_S
from skills.skill_draft.engine.messages import Failed, FailureKind
from skills.skill_draft.sizing import MAX_STEPS
from tests.engine_world import ENDLESS, STEP_TIMEOUT_S, Caller, World

TEXTS = ("KILL", "LATER", "HANG", "REFUSE", "LARGE2", "LARGE99", "SEE", "BLIND", "POISON")
numbers = st.integers(0, 1000)


class SupervisorMachine(RuleBasedStateMachine):
    """See `tests.engine_world` for what is checked after each event."""

    @initialize(
        texts=st.lists(st.sampled_from(("write", "write", "SEE", *TEXTS)), max_size=4),
        ticks=st.integers(0, 9),
        idle_s=st.sampled_from([0.0, TICK_S, 1.0]),
    )
    def begin(self, texts: list[str], ticks: int, idle_s: float) -> None:
        """Start an engine, and perhaps some requests that have just lost it."""
        self.world = World(idle_s=idle_s)
        for text in texts:
            self.world.submit(text, 30)
        self.world.wait(1.0)
        if texts:
            self.world.die("SIGKILL")
            self.world.wait(ticks * TICK_S)

    def _caller(self, number: int) -> Caller:
        """Return any caller, more often an open one: a caller may also leave after its whole answer."""
        callers = self.world.callers
        pool = [*callers, *(2 * [caller for caller in callers if caller.open])]
        return pool[number % len(pool)]

    @rule(number=st.integers(1, 3), max_tokens=st.sampled_from([1, 30, ENDLESS]))
    def submit(self, number: int, max_tokens: int) -> None:
        for _ in range(number):
            self.world.submit("write", max_tokens)

    @rule(text=st.sampled_from(TEXTS), max_tokens=st.sampled_from([5, ENDLESS]))
    def submit_what_ends_engines(self, text: str, max_tokens: int) -> None:
        self.world.submit(text, max_tokens)

    @precondition(lambda self: self.world.callers)
    @rule(number=numbers)
    def leave(self, number: int) -> None:
        self.world.leave(self._caller(number))

    @precondition(lambda self: self.world.engine and self.world.engine.unproven)
    @rule()
    def leave_during_its_trial(self) -> None:
        engine = self.world.engine
        assert engine is not None
        self.world.leave(self.world.callers[min(engine.unproven) - 1])

    @precondition(lambda self: any(caller.open for caller in self.world.callers))
    @rule(number=numbers)
    def meet_deadline(self, number: int) -> None:
        open_ = [caller for caller in self.world.callers if caller.open]
        self.world.meet_deadline(open_[number % len(open_)])

    @precondition(lambda self: self.world.engine and self.world.engine.running)
    @rule(number=numbers)
    def engine_fails_a_request(self, number: int) -> None:
        engine = self.world.engine
        assert engine is not None
        id_ = list(engine.running)[number % len(engine.running)]
        del engine.running[id_]
        engine.unproven.discard(id_)
        self.world.tell(Failed(id=id_, kind=FailureKind.INTERNAL, message="it has failed"))

    @rule(out_of_memory=st.booleans())
    def die(self, out_of_memory: bool) -> None:
        self.world.die("SIGKILL", out_of_memory=out_of_memory)

    @precondition(lambda self: self.world.engine)
    @rule(seconds=st.sampled_from([1.0, STEP_TIMEOUT_S, math.inf]))
    def freeze(self, seconds: float) -> None:
        engine = self.world.engine
        assert engine is not None
        engine.frozen_until = self.world.now + seconds

    @rule(seconds=st.sampled_from([0.1, 5.0, 3600.0]), server_first=st.booleans())
    def stop_together(self, seconds: float, server_first: bool) -> None:
        self.world.stop_together(seconds, server_first=server_first)

    @rule(failures=st.lists(st.sampled_from(["refuse", "die", "hang"]), max_size=3))
    def next_launches_fail(self, failures: list[str]) -> None:
        self.world.failures = failures

    @rule(ticks=st.integers(1, 4))
    def ticks_pass(self, ticks: int) -> None:
        self.world.wait(ticks * TICK_S)

    @rule(seconds=st.sampled_from([1.5 * STEP_TIMEOUT_S, 12.0]))
    def time_passes(self, seconds: float) -> None:
        self.world.wait(seconds)

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        world = self.world
        world.come_to_rest()
        for text in ("KILL", "LATER", "LARGE99", "POISON"):
            asked = [caller for caller in world.callers if caller.request.raw == text]
            # If a request's caller leaves during its trial, the request is not found guilty.
            most = 2 * len(asked) + world.departures + (MAX_STEPS if text == "LARGE99" else 0)
            assert world.ended_by.get(text, 0) <= most, "a deadly request has ended more than two engines"


SupervisorMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)
TestSupervisorMachine = SupervisorMachine.TestCase
