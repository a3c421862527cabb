"""The supervisor's decisions, in virtual time."""

from __future__ import annotations

import math

import pytest

from skills.runtime.patience import TICK_S
from skills.skill_draft.engine.messages import Done, FailureKind
from skills.skill_draft.sizing import MAX_STEPS
from skills.skill_draft.supervisor_state import RESTART_DELAY_S, State
from tests.engine_world import ENCODE_S, GUILTY, START_TIMEOUT_S, STEP_TIMEOUT_S, World


def test_requests_go_on_in_the_next_engine() -> None:
    world = World()
    callers = [world.submit(max_tokens=20) for _ in range(3)]
    world.wait(2.0)
    world.die("SIGABRT")
    assert world.state.state is State.REPLAYING
    assert "SIGABRT" in world.log[-1]
    world.wait(10.0)
    assert [(type(c.ends[0]), len(c.tokens)) for c in callers] == [(Done, 20)] * 3
    assert world.state.restarts == 1


@pytest.mark.parametrize("text", ["KILL", "LATER", "HANG"])
def test_the_request_that_ends_engines_is_given_up_after_the_second_one_and_the_others_go_on(text: str) -> None:
    world = World()
    others = [world.submit(max_tokens=40) for _ in range(3)]
    deadly = world.submit(text)
    world.wait(30.0)
    assert deadly.failed is not None
    assert deadly.failed.kind is FailureKind.INTERNAL
    assert GUILTY in deadly.failed.message
    assert [len(other.tokens) for other in others] == [40] * 3
    assert world.state.restarts == 2
    world.come_to_rest()


def test_what_a_departed_request_does_is_blamed_on_nobody_else() -> None:
    world = World()
    hangs, innocent = world.submit("HANG"), world.submit(max_tokens=5)
    world.wait(STEP_TIMEOUT_S + 3 * TICK_S)
    assert world.state.restarts == 1
    world.wait(2 * TICK_S)
    world.leave(hangs)
    world.wait(10.0)
    assert isinstance(innocent.ends[0], Done)
    assert world.state.restarts == 2
    world.come_to_rest()


def test_a_request_that_was_given_up_while_no_engine_started_holds_up_nobody_later() -> None:
    world = World()
    caller = world.submit()
    world.wait(1.0)
    world.failures = 3 * ["refuse"]
    world.die("SIGKILL")
    world.wait(1.0)
    assert world.state.state is State.DOWN
    for refused in (caller, world.submit()):
        assert refused.failed is not None
        assert refused.failed.kind is FailureKind.UNAVAILABLE
        assert "the model is broken" in refused.failed.message
    world.come_to_rest()
    assert world.state.message == ""


def test_a_caller_who_leaves_during_the_trial_of_its_request_lets_the_next_one_go_on() -> None:
    world = World()
    first, second = world.submit(max_tokens=20), world.submit(max_tokens=20)
    world.wait(1.0)
    world.die("SIGKILL")
    world.wait(2 * TICK_S)
    assert world.engine is not None
    assert list(world.engine.running) == [first.request.id], "its prompt must be in prefill"
    world.leave(first)
    world.wait(10.0)
    assert isinstance(second.ends[0], Done)


def test_a_request_that_came_while_no_engine_was_there_is_not_guilty_of_the_first_death_that_it_sees() -> None:
    world = World()
    world.die("SIGKILL")
    newcomer = world.submit(max_tokens=5)
    world.wait(TICK_S)
    assert world.engine is not None
    assert world.engine.unproven, "the request must be on trial"
    world.die("SIGKILL")
    world.wait(5.0)
    assert isinstance(newcomer.ends[0], Done)


def test_callers_who_leave_while_no_engine_is_there_leave_nothing_to_do() -> None:
    world = World()
    callers = [world.submit() for _ in range(2)]
    world.wait(1.0)
    world.die("SIGKILL")
    for caller in callers:
        world.leave(caller)
    world.come_to_rest()
    assert world.state.restarts == 1


@pytest.mark.parametrize(
    ("failure", "says"),
    [("refuse", "the model is broken"), ("die", "exit code 3"), ("hang", "the model did not load within 5 s")],
)
def test_a_first_engine_that_does_not_get_ready_is_the_only_one(failure: str, says: str) -> None:
    world = World(failure)
    world.wait(2 * START_TIMEOUT_S)
    assert world.state.state is State.DOWN
    assert world.state.ready is None
    assert says in world.state.message


def test_an_engine_that_makes_no_step_is_replaced() -> None:
    world = World()
    caller = world.submit(max_tokens=20)
    world.wait(1.0)
    assert world.engine is not None
    world.engine.frozen_until = math.inf
    world.wait(STEP_TIMEOUT_S + 10.0)
    assert "no step for" in world.log[0]
    assert isinstance(caller.ends[0], Done)
    assert world.state.restarts == 1


@pytest.mark.parametrize("server_first", [True, False])
def test_engine_and_server_that_were_stopped_together_go_on_together(server_first: bool) -> None:
    world = World()
    caller = world.submit(max_tokens=20)
    world.wait(1.0)
    world.stop_together(3600.0, server_first=server_first)
    world.wait(10.0)
    assert isinstance(caller.ends[0], Done)
    assert world.state.restarts == 0


def test_an_intake_that_was_stopped_together_with_the_server_is_not_stuck() -> None:
    world = World()
    world.submit("HANG")
    world.wait(2 * TICK_S)
    world.stop_together(3600.0, server_first=True)
    world.wait(STEP_TIMEOUT_S / 2)
    assert not world.state.restarts
    world.wait(STEP_TIMEOUT_S)
    assert world.state.restarts, "it is stuck after that long while both run"


def test_a_request_that_no_engine_is_small_enough_for_is_given_up_and_the_others_are_not() -> None:
    world = World()
    large, other = world.submit("LARGE99"), world.submit(max_tokens=5)
    world.wait(20.0)
    assert large.failed is not None
    assert isinstance(other.ends[0], Done)
    assert world.state.sizing.kills == MAX_STEPS + 1
    world.come_to_rest()


def test_engines_killed_for_want_of_memory_while_they_start_are_made_smaller_and_do_not_count() -> None:
    world = World(*MAX_STEPS * ["hang"], "hang")
    for _ in range(MAX_STEPS):
        world.die("SIGKILL", out_of_memory=True)
        world.wait(TICK_S)
    assert world.engine is not None
    assert world.engine.smaller == MAX_STEPS
    world.die("SIGKILL", out_of_memory=True)
    world.wait(60.0)
    assert world.state.ready is None, "the next engine could not be smaller"


def test_further_engines_are_tried_less_and_less_often() -> None:
    world = World()
    world.failures = 10 * ["die"]
    world.die("SIGKILL")
    delays = []
    for _ in range(9):
        assert world.launch_at is not None
        delays.append(world.launch_at - world.now)
        world.now = world.launch_at - TICK_S
        world.wait(TICK_S)
    assert delays == [*RESTART_DELAY_S, 10.0, 10.0]
    world.come_to_rest()
    world.die("SIGKILL")
    assert world.launch_at == world.now, "delays start over once an engine has served"


def test_a_request_waits_for_the_rows_of_its_image_while_others_are_answered() -> None:
    world = World()
    sees, other = world.submit("SEE", 5), world.submit(max_tokens=5)
    world.wait(2.0)
    assert (sees.tokens, len(other.ends)) == ([], 1)
    world.wait(ENCODE_S + 2.0)
    assert isinstance(sees.ends[0], Done)


def test_an_image_that_cannot_be_encoded_ends_its_request_alone() -> None:
    world = World()
    blind, other = world.submit("BLIND"), world.submit(max_tokens=40)
    world.wait(ENCODE_S + 2.0)
    assert world.engine is not None
    assert (blind.failed and blind.failed.message, other.open) == ("it is no image", True)
    assert list(world.engine.running) == [other.request.id], "the engine has been told"
    world.come_to_rest()


def test_rows_are_released_when_an_engine_dies_and_the_next_one_asks_for_them() -> None:
    world = World()
    sees = world.submit("SEE", 5)
    world.wait(2.0)
    world.die("SIGKILL")
    assert world.released == 1
    world.wait(ENCODE_S + 3.0)
    assert isinstance(sees.ends[0], Done)
    assert world.state.restarts == 1


def test_nobody_waits_for_the_encoding_of_an_image_whose_request_is_on_trial() -> None:
    world = World()
    sees, others = world.submit("SEE"), [world.submit(max_tokens=60) for _ in range(2)]
    world.wait(1.0)
    world.die("SIGKILL")
    world.wait(2.0)
    assert world.engine is not None
    assert world.engine.sent == {caller.request.id for caller in (sees, *others)}
    assert not sees.tokens
    world.come_to_rest()


def test_an_image_that_ends_engines_is_found_and_its_request_given_up() -> None:
    world = World()
    poison, sees, other = world.submit("POISON"), world.submit("SEE", 5), world.submit(max_tokens=60)
    world.wait(40.0)
    assert poison.failed is not None
    assert GUILTY in poison.failed.message
    assert (type(sees.ends[0]), type(other.ends[0]), world.state.restarts) == (Done, Done, 2)
    world.come_to_rest()


def test_a_caller_who_leaves_while_its_image_is_encoded_holds_up_nobody() -> None:
    world = World()
    sees, other = world.submit("SEE"), world.submit(max_tokens=100)
    world.wait(1.0)
    world.die("SIGKILL")
    world.wait(1.5)
    world.leave(sees)
    world.wait(30.0)
    assert isinstance(other.ends[0], Done)
    world.come_to_rest()


def test_an_engine_rests_when_there_is_nothing_to_do_and_the_next_request_wakes_it() -> None:
    world = World(idle_s=5.0)
    first = world.submit(max_tokens=3)
    world.wait(4.0)
    assert first.ends
    assert world.state.state is State.SERVING
    world.wait(6.0)
    assert (world.state.state, world.engine, world.rests) == (State.RESTING, None, 1)
    second = world.submit(max_tokens=3)
    world.wait(2.0)
    assert isinstance(second.ends[0], Done)
    assert (world.state.state, world.state.restarts) == (State.SERVING, 0)


def test_a_request_that_comes_while_a_resting_engine_ends_is_answered_by_the_next_one() -> None:
    world = World(idle_s=1.0)
    while not world.rests:
        world.wait(TICK_S)
    request = world.submit(max_tokens=3)
    assert world.engine is not None, "its process has not gone yet"
    world.wait(3.0)
    assert isinstance(request.ends[0], Done)
