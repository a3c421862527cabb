"""What the pool decides, in virtual time."""

from __future__ import annotations

import pytest

from core.errors import CallError
from core.pool import events
from core.pool.balance import MOVED_AFTER_S
from core.pool.records import EJECT_AFTER, EJECT_S, NO_IMAGES_S, Attempt
from core.pool.state import SILENT_S, TICK_S
from core.pool.verdicts import NEVER_SEEN_ATTEMPTS, NEVER_SEEN_S
from core.pool.waiting import FLOOR, RetryBudget
from tests.pool_world import BLIND, BROKEN, INTERNAL, REFUSED, Talk, World, failure, full


def probes(world: World) -> list[str]:
    """Return the targets of the replicas that were probed, in order."""
    return [action.attempt.replica.target for action in world.told if isinstance(action, events.Probe)]


# --- choice ---


def test_calls_are_spread_by_outstanding_work() -> None:
    world = World("a", "b", "c")
    assert sorted(world.ask().at for _ in range(9)) == [*"aaabbbccc"]


def test_slow_replica_is_avoided_and_tried_again_after_a_while() -> None:
    world = World("slow", "fast")
    for seconds, target in ((5.0, "slow"), (0.1, "fast")):
        talk = world.ask()
        assert talk.at == target
        world.wait(seconds)
        world.answer(talk)
        world.ask()  # keeps the replica that has just answered a little busier
    for _ in range(10):
        talk = world.ask()
        assert talk.at == "fast"
        world.answer(talk)
    world.wait(300.0)
    assert {world.ask(600.0).at for _ in range(4)} == {"slow", "fast"}


def test_conversation_stays_where_it_is_until_that_is_much_busier() -> None:
    world = World("a", "b")
    home = world.answer(world.ask(about=1))
    for _ in range(3):
        assert world.answer(world.ask(about=1)) == home
    talks = [world.ask(about=1) for _ in range(4)]
    assert [talk.at for talk in talks].count(home) < 4


def reading(world: World, *, hedge: bool = True) -> list[Talk]:
    """Let two replicas read three prompts, after an answer that came token by token."""
    world.piece(attempt_of(first := world.ask()))
    world.answer(first)
    return [world.ask(hedge=hedge) for _ in range(3)]


def attempt_of(talk: Talk) -> Attempt:
    assert talk.call.attempt is not None
    return talk.call.attempt


def test_prompt_that_is_read_weighs_more_than_answers_that_are_written() -> None:
    world = World("a", "b")
    writing = [world.ask() for _ in range(4)]
    for talk in writing:
        world.piece(attempt_of(talk))
    world.answer(next(talk for talk in writing if talk.at == "b"))
    assert world.ask().at == "b"
    assert world.ask().at == "a"


def test_calls_without_tokens_all_weigh_the_same() -> None:
    world = World("a", "b")
    talks = [world.ask(hedge=False) for _ in range(3)]
    assert sorted(talk.at for talk in talks) == ["a", "a", "b"]
    for talk in talks:
        world.piece(attempt_of(talk), resumable=False)
    assert [world.ask(hedge=False).at for _ in range(2)] == ["b", "a"]


def test_call_behind_another_prompt_moves_once_to_a_replica_that_reads_none() -> None:
    world = World("a", "b")
    first, second, third = reading(world)
    assert third.at == first.at != second.at
    world.wait(MOVED_AFTER_S)
    assert world.state.stats.moves == 0, "no replica reads nothing"
    world.answer(second)
    world.wait(TICK_S)
    assert third.at != first.at
    world.answer(first)
    world.ask()
    world.wait(60.0)
    assert (third.ends, world.state.stats.moves, world.state.stats.failovers) == ([], 1, 0)
    world.answer(third)
    assert third.pieces == [0]


def test_new_replica_gets_a_call_that_waits_behind_another_prompt() -> None:
    world = World("a", changing=True)
    talks = reading(world)
    world.tell(events.Targets(["a", "b"]))
    world.wait(MOVED_AFTER_S + TICK_S)
    assert sorted(talk.at for talk in talks) == ["a", "a", "b"]


def test_call_that_waits_for_the_answer_to_the_same_question_stays_with_it() -> None:
    world = World("a", changing=True)
    world.piece(attempt_of(first := world.ask()))
    world.answer(first)
    same, other = [world.ask(about=1) for _ in range(2)], world.ask(about=2)
    world.tell(events.Targets(["a", "b"]))
    world.wait(30.0)
    assert [talk.at for talk in (*same, other)] == ["a", "a", "b"]


def test_call_that_has_a_token_or_that_has_none_to_expect_stays() -> None:
    for hedge in (True, False):
        world = World("a", "b")
        first, second, third = reading(world, hedge=hedge)
        if hedge:
            world.piece(attempt_of(third))
        world.answer(second)
        world.wait(30.0)
        assert third.at == first.at
    world = World("a", changing=True)
    talks = [world.ask(), world.ask()]
    world.tell(events.Targets(["a", "b"]))
    world.wait(30.0)
    assert [talk.at for talk in talks] == ["a", "a"], "nothing is known yet of how answers come"


# --- failures ---


def test_call_goes_to_another_replica_at_once_and_goes_on_where_it_was() -> None:
    world = World("a", "b")
    talk = world.ask()
    world.piece(world.running[0])
    world.fail(talk)
    assert talk.at == "b"
    world.answer(talk)
    assert (talk.pieces, talk.ends) == ([0, 1], ["answer"])
    assert (world.state.stats.attempts, world.state.stats.failovers) == (2, 1)


def test_what_cannot_be_continued_fails() -> None:
    world = World("a", "b")
    talk = world.ask()
    world.piece(world.running[0], resumable=False)
    world.fail(talk)
    assert talk.ends == ["UnavailableError"]


@pytest.mark.parametrize("error", [INTERNAL, full(None), failure("INVALID_ARGUMENT"), failure("DEADLINE_EXCEEDED")])
def test_other_failures_are_not_tried_again(error: CallError) -> None:
    world = World("a", "b")
    talk = world.ask()
    world.fail(talk, error)
    assert talk.ends == [type(error).__name__]


def test_request_that_two_replicas_died_with_is_not_tried_on_a_third() -> None:
    world = World("a", "b", "c")
    talk, targets = world.ask(), list[str]()
    for _ in range(2):
        targets.append(talk.at)
        world.tell(events.Failed(world.running[0], BROKEN))
        world.tell(events.HealthTold(world.replica(targets[-1]), serving=False, why=REFUSED.details()))
    assert talk.ends == ["UnavailableError"]
    assert "2 replicas died" in str(talk.call.error)
    assert all(f"{target}: Socket closed" in str(talk.call.error) for target in targets)


def test_connections_that_break_are_no_deaths() -> None:
    world = World("a", "b", "c")
    talk = world.ask()
    for _ in range(2):
        target = talk.at
        world.fail(talk)
        world.back(target)
    assert talk.at


def test_address_that_never_answered_gets_few_attempts_and_little_time() -> None:
    world = World("a", known=False)
    talk = world.ask()
    for _ in range(NEVER_SEEN_ATTEMPTS):
        world.wait(1.0)
        world.fail(talk)
        world.back("a")
        world.wait(1.0)
    assert talk.ends == ["UnavailableError"]
    world = World("a", known=False)
    world.fail(talk := world.ask(), REFUSED)
    world.wait(NEVER_SEEN_S)
    assert talk.ends == ["UnavailableError"]


def test_replica_that_stays_away_is_given_up_after_the_recovery_time() -> None:
    world = World("a", "b", recovery_s=5.0)
    talk = world.ask()
    for _ in range(2):
        world.fail(talk, REFUSED)
    world.wait(4.9)
    assert not talk.ends
    world.wait(0.2)
    assert talk.ends == ["UnavailableError"]
    assert all(f"{target}: {REFUSED.details()}" in str(talk.call.error) for target in "ab")


def test_call_waits_for_a_replica_that_restarts() -> None:
    world = World("a")
    world.fail(talk := world.ask(), REFUSED)
    world.wait(20.0)
    world.back("a")
    assert talk.at == "a"


def test_replica_that_drains_finishes_what_it_has_and_gets_nothing_new() -> None:
    world = World("a", "b")
    talk = world.ask()
    draining, other = talk.at, "ab".replace(talk.at, "")
    world.piece(world.running[0])
    world.tell(events.HealthTold(world.replica(draining), serving=False))
    world.piece(world.running[0])
    assert {world.ask().at for _ in range(5)} == {other}
    assert talk.at == draining


def test_replica_that_fails_again_and_again_is_left_out_for_a_while() -> None:
    world = World("bad", "good", "fine")
    for _ in range(60):
        talk = world.ask()
        world.fail(talk, INTERNAL) if talk.at == "bad" else world.answer(talk)
    assert world.replica("bad").failures == EJECT_AFTER
    world.wait(EJECT_S)
    assert "bad" in {world.ask().at for _ in range(3)}


def test_below_half_of_the_replicas_nobody_is_left_out() -> None:
    world = World("a", "b")
    for _ in range(4 * EJECT_AFTER):
        talk = world.ask()
        assert talk.at
        world.fail(talk, INTERNAL)


# --- capacity, and waiting ---


def test_full_replica_is_passed_over_as_long_as_it_asks_for() -> None:
    world = World("a", "b")
    world.fail(talk := world.ask(), full(5.0))
    taken, other = talk.call.tried.popitem()[0], talk.at
    world.answer(talk)
    for _ in range(3):
        assert world.answer(world.ask()) == other
    world.wait(5.0)
    assert taken in {world.ask().at for _ in range(2)}


def test_call_waits_as_long_as_all_replicas_ask_for_if_its_deadline_allows() -> None:
    world = World("a", "b")
    talk = world.ask()
    world.fail(talk, full(5.0))
    world.fail(talk, full(3.0))
    world.wait(2.9)
    assert talk.at == ""
    world.wait(0.2)
    assert talk.at
    world = World("a")
    world.fail(talk := world.ask(timeout_s=2.0), full(3.0))
    assert talk.ends == ["OverloadedError"], "it fails at once"


def test_line_of_waiting_calls_is_bounded() -> None:
    world = World("a", queue_limit=2)
    world.fail(world.ask(), full(5.0))
    assert [world.ask().ends for _ in range(3)] == [[], ["OverloadedError"], ["OverloadedError"]]
    assert World("a", queue_limit=0).ask().at == "a", "no call waits while a replica has capacity"


def test_call_that_gets_no_room_in_time_is_told_so() -> None:
    world = World("a")
    world.fail(world.ask(), full(0.1))
    world.wait(0.2)
    late = world.ask(timeout_s=2.0)
    world.wait(2.0)
    assert late.ends == ["OverloadedError"]
    assert "no replica has room in time" in str(late.call.error)


def test_callers_take_turns_and_the_crowd_waits_in_the_pool() -> None:
    world = World("a")
    talks = [world.ask(600.0, caller="greedy") for _ in range(3)]
    world.fail(talks[0], full(0.5))
    talks += [world.ask(600.0, caller="greedy") for _ in range(6)]
    modest = world.ask(600.0, caller="modest")
    world.wait(0.5)
    served: list[Talk] = []
    while not all(talk.ends for talk in (*talks, modest)):
        assert len(world.running) <= 3, "hardly more calls than it has capacity for"
        oldest = min(world.running, key=lambda attempt: attempt.began_s)
        served.append(talk := next(talk for talk in (*talks, modest) if talk.call is oldest.call))
        world.answer(talk)
        world.wait(0.1)
    assert served.index(modest) <= 4


def test_budget_of_retries_is_a_fifth_of_the_calls_and_three() -> None:
    budget = RetryBudget()
    for _ in range(10):
        budget.call()
    assert [budget.spend(7.0) for _ in range(int(FLOOR) + 2)] == [0.0] * 5
    assert [budget.spend(7.0) for _ in range(3)] == [0.0, 1.0, 2.0], "beyond the budget, one retry a second"
    assert [budget.spend(7.0, most_s=1.0) for _ in range(9)] == [3.0] * 9
    assert budget.spend(7.0) == 3.0, "a call that cannot wait reserves nothing"


def test_call_whose_replicas_fail_for_long_is_tried_again_once_a_second() -> None:
    world = World(*"abcd")
    talk = world.ask(timeout_s=60.0)
    for _ in range(200):
        if talk.at:
            world.fail(talk, failure(details="it loads", reason="LOADING"))  # `World` checks the budget
        world.wait(0.1)
    assert world.state.stats.attempts >= 20


def test_call_that_is_left_while_it_waits_ends_at_once_and_leaves_nothing() -> None:
    world = World("a")
    world.fail(talk := world.ask(), REFUSED)
    world.leave(talk)
    assert world.state.outstanding == 0
    assert "while it waited" in str(talk.call.error)


def test_closing_the_pool_ends_waiting_calls() -> None:
    world = World("a")
    world.fail(talk := world.ask(), REFUSED)
    world.tell(events.Closed())
    assert talk.ends == ["PoolClosedError"]
    assert world.ask().ends == ["PoolClosedError"]


# --- silence ---


def test_all_silent_replicas_are_asked_at_once() -> None:
    world = World("a", "b", "c")
    talks = [world.ask() for _ in range(3)]
    world.wait(SILENT_S + TICK_S)
    assert sorted(probes(world)) == [*"abc"]
    since_s = world.now - SILENT_S
    for target in "ab":
        world.tell(events.Probed(world.replica(target), since_s, connection_dead=True, why="it is silent"))
    assert [talk.at for talk in talks] == [*"ccc"]


def test_dead_connection_is_replaced_and_who_has_heard_something_goes_on() -> None:
    world = World("a", "b")
    silent = world.ask()
    world.wait(1.5)
    world.ask()
    lively = world.ask()
    assert silent.at == lively.at == "a"
    before, running = world.replica("a").generation, lively.call.attempt
    world.tell(events.Probed(world.replica("a"), world.now - 1.0, connection_dead=True))
    assert world.replica("a").generation == before + 1
    assert silent.at == "b"
    assert lively.call.attempt is running


def test_replica_that_answers_when_it_is_asked_keeps_its_calls() -> None:
    world = World("a", "b")
    talk = world.ask()
    world.wait(SILENT_S + TICK_S)
    world.tell(events.Probed(world.replica("a"), world.now - SILENT_S, connection_dead=False))
    assert talk.at == "a"
    world.wait(SILENT_S)
    assert probes(world) == ["a", "a"], "a replica that stays silent is probed again"


def test_call_at_a_replica_that_is_leaving_goes_on_elsewhere_when_it_is_silent() -> None:
    world = World("a", changing=True)
    talk, leaving = world.ask(), world.replica("a")
    world.tell(events.Targets(["b"]))
    assert (talk.at, world.ask().at) == ("a", "b")
    world.wait(SILENT_S + TICK_S)
    assert "a" in probes(world)
    world.tell(events.Probed(leaving, world.now - SILENT_S, connection_dead=True, why="it is silent"))
    assert talk.at == "b"


def test_nothing_found_is_no_reason_to_have_nobody() -> None:
    world = World("a", changing=True)
    world.tell(events.Targets([]))
    assert world.ask().at == "a"


def test_replicas_are_watched_where_there_is_a_choice_and_else_while_they_are_away() -> None:
    def watched(world: World) -> list[str]:
        return [action.replica.target for action in world.told if isinstance(action, events.Watch)]

    world = World("a", "b")
    world.ask()
    assert watched(world) == ["a", "b"]
    world = World("a")
    talk = world.ask()
    assert watched(world) == []
    world.fail(talk)
    assert watched(world) == ["a"]


# --- hedging ---


def hedged(*targets: str) -> tuple[World, Talk]:
    """Return a world and its hedged call, which two replicas are working on."""
    world = World(*targets, hedge_s=0.5)
    talk = world.ask()
    world.wait(0.5)
    assert len(world.running) == 2
    return world, talk


def test_hedged_call_belongs_to_the_replica_that_answers_first() -> None:
    world, talk = hedged("a", "b")
    first, rival = world.running
    world.piece(rival)
    assert (first.over, first.why_over, talk.at) == (True, "another replica answered first", rival.replica.target)
    world.piece(first)
    assert talk.pieces == [0], "pieces of the slower replica are ignored"
    assert world.answer(talk) == rival.replica.target
    assert (world.state.stats.hedges, world.state.stats.failovers) == (1, 0)


def test_hedge_is_cancelled_when_the_first_replica_answers() -> None:
    world, talk = hedged("a", "b")
    first, rival = world.running
    world.piece(first)
    assert rival.over
    assert talk.call.attempt is first


def test_two_are_asked_at_most_and_the_second_ones_failure_does_not_matter() -> None:
    world, talk = hedged("a", "b", "c")
    world.tell(events.Failed(world.running[1], INTERNAL))
    world.wait(5.0)
    assert len(world.running) == 1
    world.answer(talk)
    assert world.state.stats.attempts == 2


def test_call_whose_first_replica_fails_while_two_are_asked_goes_on_at_one() -> None:
    world, talk = hedged("a", "b", "c")
    world.fail(talk)
    assert [attempt.replica.target for attempt in world.running] == [talk.at]


def test_caller_that_leaves_while_two_are_asked_leaves_nothing_behind() -> None:
    world, talk = hedged("a", "b")
    world.leave(talk)
    assert world.state.outstanding == 0


def test_slow_replica_that_loses_is_known_to_be_slow() -> None:
    world, talk = hedged("a", "b")
    slow, rival = world.running
    world.wait(0.05)
    world.piece(rival)
    world.answer(talk)
    for _ in range(6):
        talk = world.ask()
        assert talk.at != slow.replica.target
        world.answer(talk)


def test_hedges_are_within_the_budget_and_only_where_they_are_asked_for() -> None:
    world = World("a", "b", hedge_s=0.1)
    for _ in range(16):
        world.ask()
    world.wait(1.0)
    assert 1 <= world.state.stats.hedges <= 0.2 * 16 + FLOOR
    world = World("a", "b")
    world.ask()
    world.wait(10.0)
    assert world.state.stats.hedges == 0


@pytest.mark.parametrize("resumable", [True, False])
def test_whole_answer_that_has_come_is_not_asked_for_again(resumable: bool) -> None:
    world = World("a", "b")
    talk = world.ask()
    attempt = world.running[0]
    world.piece(attempt, resumable=resumable)
    world.answer(talk)
    world.tell(events.Failed(attempt, BROKEN))
    assert talk.ends == ["answer"]
    assert world.state.stats.attempts == 1


# --- images ---


def test_call_with_images_goes_on_to_a_replica_that_reads_them_and_the_next_ones_begin_there() -> None:
    world = World("blind", "sees")
    talk = world.ask(images=True)
    assert talk.at == "blind"
    world.fail(talk, BLIND)
    assert talk.at == "sees"
    assert not world.replica("blind").down
    assert [world.ask(images=True).at for _ in range(3)] == ["sees"] * 3
    assert world.ask().at == "blind", "text it reads"
    world.wait(NO_IMAGES_S)
    assert world.ask(images=True).at == "blind", "it may be another one by now"


def test_call_with_images_fails_where_nobody_else_can_take_it() -> None:
    world = World("blind", "sees")
    first, second = world.ask(images=True), world.ask(images=True)
    world.fail(first, BLIND)
    assert [first.at, second.at] == ["sees", "sees"]
    world.fail(first, full(5.0))
    world.fail(second, full(5.0))
    third = world.ask(images=True)
    assert third.at == "blind"
    world.fail(third, BLIND)
    assert third.ends == ["NoImagesError"]


def test_images_that_no_replica_reads_are_tried_once_at_each() -> None:
    world = World("a", "b", "c")
    talk = world.ask(images=True)
    for target in ("a", "b", "c"):
        assert talk.at == target
        world.fail(talk, BLIND)
    assert talk.ends == ["NoImagesError"]
    assert world.state.stats.attempts == 3


def test_replica_that_reads_no_images_is_no_hedge_for_them() -> None:
    world = World("blind", "sees", hedge_s=0.5)
    world.fail(world.ask(images=True), BLIND)
    talk = world.ask(images=True)
    world.wait(2.0)
    assert talk.at == "sees"
    assert talk.call.rival is None
