"""The pool's state under everything that can happen to it, in any order and at any time."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from core.pool import events
from core.pool.records import Attempt
from tests.pool_world import BLIND, BROKEN, INTERNAL, REFUSED, World, failure, full

TARGETS = ("a", "b", "c", "d")
ERRORS = (
    BROKEN,
    REFUSED,
    INTERNAL,
    full(0.3),
    full(100.0),
    full(None),
    failure("UNAVAILABLE", "it drains", reason="DRAINING"),
    failure("UNAVAILABLE", "it loads", reason="LOADING"),
    failure("DEADLINE_EXCEEDED", "too late"),
    failure("INVALID_ARGUMENT", "no such field"),
    failure("CANCELLED", "it was cancelled"),
    BLIND,
)
LONGEST_S = 40.0
numbers = st.integers(0, 1000)


class PoolMachine(RuleBasedStateMachine):
    """See `tests.pool_world` for what is checked after each step."""

    @initialize(
        replicas=st.integers(1, 3),
        known=st.booleans(),
        hedge_s=st.sampled_from([0.0, 0.3, 0.3]),
        queue_limit=st.sampled_from([1, 3, 100]),
    )
    def begin(self, replicas: int, **settings: Any) -> None:
        self.world = World(*TARGETS[:replicas], changing=True, recovery_s=5.0, **settings)
        self.past: list[Attempt] = []
        """All attempts that ever ran: the reader of an attempt may learn late that it is over."""

    def _attempt(self, number: int) -> Attempt:
        self.past += [attempt for attempt in self.world.running if attempt not in self.past]
        # Running attempts are chosen more often.
        pool = [*self.past, *self.world.running, *self.world.running]
        return pool[number % len(pool)]

    @rule(
        timeout_s=st.sampled_from([0.0, 0.3, 3.0, LONGEST_S]),
        caller=st.sampled_from("xy"),
        about=st.integers(0, 2),
        hedge=st.sampled_from([True, True, False]),
        images=st.booleans(),
    )
    def ask(self, **how: Any) -> None:
        self.world.ask(**how)

    @precondition(lambda self: self.world.running)
    @rule(number=numbers, resumable=st.sampled_from([True, True, False]), last=st.booleans())
    def piece_comes(self, number: int, resumable: bool, last: bool) -> None:
        self.world.piece(self._attempt(number), resumable=resumable, last=last)

    @precondition(lambda self: self.world.running)
    @rule(number=numbers, error=st.sampled_from(ERRORS))
    def attempt_fails(self, number: int, error: Any) -> None:
        self.world.tell(events.Failed(self._attempt(number), error))

    @precondition(lambda self: self.world.talks)
    @rule(number=numbers)
    def caller_leaves(self, number: int) -> None:
        self.world.leave(self.world.talks[number % len(self.world.talks)])

    @rule(owner=st.sampled_from("xy"))
    def client_closes(self, owner: str) -> None:
        self.world.tell(events.ClientClosed(owner))
        assert all(talk.call.over for talk in self.world.talks if talk.call.owner == owner)

    @rule(number=numbers, serving=st.booleans(), why=st.sampled_from(["", BROKEN.details(), REFUSED.details()]))
    def health_is_told(self, number: int, serving: bool, why: str) -> None:
        replicas = self.world.state.roster.replicas
        self.world.tell(events.HealthTold(replicas[number % len(replicas)], serving, why))

    @rule(number=numbers, silent_s=st.sampled_from([0.0, 2.0]), dead=st.booleans(), why=st.sampled_from(["", "silent"]))
    def replica_is_probed(self, number: int, silent_s: float, dead: bool, why: str) -> None:
        replicas = [*self.world.state.roster.replicas, *self.world.state.roster.with_calls()]
        probed = events.Probed(replicas[number % len(replicas)], self.world.now - silent_s, dead, why)
        self.world.tell(probed)

    @rule(found=st.sets(st.sampled_from(TARGETS)))
    def targets_change(self, found: set[str]) -> None:
        self.world.tell(events.Targets(sorted(found)))

    @rule(seconds=st.sampled_from([0.01, 0.4, 1.0, 6.0]))
    def time_passes(self, seconds: float) -> None:
        self.world.wait(seconds)

    def teardown(self) -> None:
        """Check that, once the replicas work, every call ends, and nothing is left."""
        if not hasattr(self, "world"):
            return
        world = self.world
        for _ in range(400):
            world.back(*TARGETS)
            for attempt in tuple(world.running):
                world.piece(attempt, last=True)
            if all(talk.call.over for talk in world.talks):
                break
            world.wait(0.5)
        assert all(talk.call.over and len(talk.ends) == 1 for talk in world.talks), "a call has not ended exactly once"
        world.wait(LONGEST_S)
        assert not world.state.outstanding
        assert world.state.due_s == float("inf"), "replicas are watched although no call runs"


PoolMachine.TestCase.settings = settings(max_examples=200, stateful_step_count=50, deadline=None)
TestPoolMachine = PoolMachine.TestCase
