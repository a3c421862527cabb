"""What the policy wants, sample by sample."""

from __future__ import annotations

import math
from typing import Any

import pytest

from core.scaling.policy import FULL_S, HOLD_S, NOTICE_S, SPARE_S, State, decide
from core.scaling.queueing import BETA, burstiness, forecast, predicted_wait_s, staffing
from core.scaling.samples import Decision, Limits, ReplicaLoad, Sample

PROMPT_S = 10.0
"""Work of a request."""
TARGET_S = 2.0
HOLD_2_S = HOLD_S * (2.0 + NOTICE_S) / TARGET_S
"""How long a replica that was of use stays where starts take 2 s."""
PATIENT_S = 6.0
"""A target that leaves time for a start, so that no replica is wanted before a request waits for it."""


def idle(name: str, **more: Any) -> ReplicaLoad:
    return ReplicaLoad(name=name, **{"prompt_token_ms": 10.0, "start_s": 2.0, **more})


def reads(name: str, prompts: int = 1, **more: Any) -> ReplicaLoad:
    tokens = int(prompts * PROMPT_S * 100)
    return idle(
        name, requests_running=prompts, prompts_waiting=prompts, prefill_tokens_waiting=tokens,
        work_ahead_s=prompts * PROMPT_S, expected_wait_s=prompts * PROMPT_S, **more,
    )  # fmt: skip


class Scaled:
    """A skill whose samples a test makes up, a second apart."""

    def __init__(self, **limits: Any) -> None:
        self.limits = Limits(**{"low": 1, **limits})
        self.state = State()
        self.now = 1000.0
        self.decision = Decision(0, "")

    def see(self, *replicas: ReplicaLoad, seconds: float = 1.0, **more: Any) -> int:
        """Show a sample after a while; return what is wanted."""
        self.now += seconds
        self.state, self.decision = decide(self.state, Sample(at_s=self.now, replicas=replicas, **more), self.limits)
        return self.decision.wanted

    def watch(self, seconds: int, *replicas: ReplicaLoad, **more: Any) -> list[int]:
        return [self.see(*replicas, **more) for _ in range(seconds)]


# --- up ---


def test_waiting_requests_are_worth_a_replica_each_at_once() -> None:
    skill = Scaled(target_wait_s=PATIENT_S)
    skill.watch(5, idle("a"))
    assert skill.see(reads("a", 4, work_arrived_s=40.0, total_requests=4)) == 4
    assert skill.decision.why == "3 requests would wait more than 6 s"


def test_those_that_start_are_not_asked_for_again() -> None:
    skill = Scaled(target_wait_s=PATIENT_S)
    busy = reads("a", 4, work_arrived_s=40.0, total_requests=4)
    skill.watch(5, idle("a"))
    assert skill.see(busy) == 4
    assert skill.see(busy, starting=3) == 4


def test_many_short_requests_get_no_replica_each() -> None:
    skill = Scaled(target_wait_s=PATIENT_S)
    skill.watch(5, idle("a"))
    many = idle("a", prompts_waiting=100, prefill_tokens_waiting=1000, work_ahead_s=10.0, work_arrived_s=10.0,
                total_requests=100, expected_wait_s=10.0)  # fmt: skip
    assert skill.see(many) == math.ceil(staffing(1.0))


def test_the_longer_a_start_takes_the_more_are_there_before_they_are_needed() -> None:
    wishes = []
    for start_s in (0.4, 2.0, 30.0):
        skill = Scaled(target_wait_s=1.0)
        others = [reads(name, start_s=start_s) for name in "bcd"]
        for second in range(70):
            one = reads("a", work_arrived_s=second * 5.0, total_requests=second // 2, start_s=start_s)
            skill.see(one, *others)
        wishes.append(skill.decision.wanted)
    assert wishes == sorted(set(wishes))
    assert wishes[-1] >= staffing(5.0)


def test_calls_wake_a_skill_from_zero_and_one_replica_comes_first() -> None:
    skill = Scaled(low=0)
    assert skill.watch(3) == [0, 0, 0]
    assert skill.see(waiting_calls=50) == 1


def test_replicas_without_figures_are_scaled_by_their_requests() -> None:
    skill = Scaled()
    skill.see(ReplicaLoad(name="a"))
    full = ReplicaLoad(name="a", requests_running=1, requests_waiting=3, expected_wait_s=9.0)
    assert skill.see(full) == 4


# --- down ---


def test_idle_replicas_go_one_at_a_time_after_the_hold_and_the_load_is_zero() -> None:
    skill = Scaled()
    replicas = [idle(name) for name in "abc"]
    assert skill.watch(int(HOLD_2_S), *replicas) == [3] * int(HOLD_2_S)
    assert skill.watch(1, *replicas) == [2]
    assert skill.watch(1, *replicas[:2]) == [1]
    assert skill.watch(50, *replicas[:1])[-1] == 1
    assert skill.decision.load == 0.0


def test_the_last_one_goes_too_where_zero_is_allowed() -> None:
    skill = Scaled(low=0)
    assert skill.watch(int(HOLD_2_S) + 1, idle("a"))[-1] == 0


@pytest.mark.parametrize("target_s", [TARGET_S, 2 * TARGET_S])
@pytest.mark.parametrize("start_s", [2.0, 20.0])
def test_what_was_of_use_stays_longer_the_more_targets_a_start_takes(start_s: float, target_s: float) -> None:
    hold_s = int(HOLD_S * (start_s + NOTICE_S) / target_s)
    skill = Scaled(target_wait_s=target_s)
    replicas = [idle(name, start_s=start_s) for name in "ab"]
    skill.watch(5, reads("a", start_s=start_s), reads("b", start_s=start_s))
    wishes = skill.watch(hold_s + 2, *replicas)
    assert wishes[: hold_s - 1] == [2] * (hold_s - 1)
    assert wishes[-1] == 1


@pytest.mark.parametrize("together", [1, 100])
def test_spare_replicas_go_before_those_that_were_of_use_and_earlier_where_requests_come_in_bursts(
    together: int,
) -> None:
    skill = Scaled()
    for second in range(200):
        number = together * (second // together)
        skill.see(reads("a", start_s=20.0, work_arrived_s=PROMPT_S * number, total_requests=number))
    (spare, spare_until_s), *_, (used, used_until_s) = skill.state.held
    assert (used, used_until_s - skill.now) == (1, HOLD_S * (20.0 + NOTICE_S) / TARGET_S)
    assert spare > used
    spare_s = spare_until_s - skill.now
    assert spare_s == SPARE_S if together == 1 else spare_s < SPARE_S / 2


def test_replica_stays_where_requests_would_wait_without_it() -> None:
    """All requests come between two samples and are done by then: only the offered load tells."""
    skill = Scaled(target_wait_s=2.2)
    for second in range(100):
        arrived = {"work_arrived_s": second * 0.9, "total_requests": second, "start_s": 0.05}
        skill.see(idle("a", **arrived), idle("b", start_s=0.05))
    assert skill.decision.wanted == 2
    assert "would wait" in skill.decision.why


def test_load_that_does_not_change_changes_nothing() -> None:
    skill = Scaled()
    replicas = 1
    wishes = []
    for second in range(1200):
        busy = min(replicas, 3 + second % 2)
        loads = [reads(f"r{n}") if n < busy else idle(f"r{n}") for n in range(replicas)]
        waiting = max(0, 3 + second % 2 - replicas)
        total = ReplicaLoad(name="r0", prompt_token_ms=10.0, start_s=2.0, prompts_waiting=1 + waiting,
                            prefill_tokens_waiting=1000 * (1 + waiting), work_ahead_s=10.0 * (1 + waiting),
                            work_arrived_s=3.5 * second, total_requests=int(0.35 * second))  # fmt: skip
        replicas = skill.see(total, *loads[1:])
        wishes.append(replicas)
    assert len(set(wishes[300:])) == 1


# --- what is not known ---


def test_without_data_nothing_changes() -> None:
    skill = Scaled(high=5)
    skill.watch(60, idle("a"), idle("b"))
    assert skill.watch(60, silent=7) == [7] * 60
    assert skill.watch(60, idle("a"), silent=1) == [2] * 60, "one that does not answer may be busy"


def test_counters_that_begin_anew_or_belong_to_an_adopted_replica_are_no_load() -> None:
    skill = Scaled()
    skill.watch(30, idle("a", work_arrived_s=5000.0, total_requests=500))
    assert skill.decision.load == 0.0
    skill.see(idle("a", work_arrived_s=1.0, total_requests=1), idle("b", work_arrived_s=9000.0, total_requests=900))
    assert skill.decision.load == pytest.approx(0.1)
    skill.see(idle("a", work_arrived_s=1.0, total_requests=1), idle("c", work_arrived_s=3.0, uptime_s=2.0))
    assert skill.decision.load == pytest.approx(0.4), "a new replica's work counts from its start"


def test_work_that_moves_from_the_line_to_a_replica_counts_once() -> None:
    skill = Scaled()
    skill.watch(5, idle("a"))
    skill.see(idle("a"), waiting_calls=2, waiting_work_s=20.0)
    skill.see(reads("a", 2, work_arrived_s=20.0, total_requests=2))
    assert skill.decision.load == pytest.approx(2.0)


# --- starts that fail, and limits ---


def test_after_a_failed_start_the_next_one_waits_twice_as_long_each_time() -> None:
    skill = Scaled(target_wait_s=PATIENT_S)
    busy = reads("a", 4, work_arrived_s=40.0, total_requests=4)
    skill.watch(3, idle("a"))
    assert skill.see(busy) == 4
    for failures, pause_s in ((1, 1), (2, 2), (3, 4)):
        pauses = skill.watch(pause_s, busy, failed_starts=failures)
        assert pauses == [1] * pause_s
        assert "failed" in skill.decision.why
        assert skill.see(busy, failed_starts=failures) == 4
    skill.see(busy, reads("b"), failed_starts=3)
    skill.see(busy, failed_starts=4)
    assert skill.see(busy, failed_starts=4) == 4, "a start that went well ends the series"


@pytest.mark.parametrize(
    ("limits", "cap", "why"),
    [
        ({"high": 3}, 3, "at most 3"),
        ({"cores": 4, "threads": 2}, 2, "4 cores"),
        ({"memory_bytes": 7_000, "replica_bytes": 3_000}, 2, "memory"),
    ],
)
def test_cores_memory_and_the_highest_number_limit(limits: dict[str, Any], cap: int, why: str) -> None:
    skill = Scaled(**limits)
    skill.watch(3, idle("a"))
    busy = reads("a", 9, work_arrived_s=90.0, total_requests=9)
    assert skill.see(busy) == cap
    others = [reads(f"b{number}") for number in range(cap - 1)]
    assert skill.see(busy, *others) == cap
    assert why in skill.decision.why
    assert skill.see(busy, *others, reads("c")) == cap, "more than are allowed"


# --- full ---


def throughput(skill: Scaled, before: float, after: float) -> list[int]:
    """Let requests wait at one replica, then at two, with this many tokens a second in all."""
    tokens, wishes = 0.0, []
    for second in range(60):
        two = second >= 20
        tokens += after if two else before
        done = {"work_done_s": tokens * 0.01, "work_arrived_s": 3.0 * second, "total_requests": second}
        wishes.append(skill.see(reads("a", 9, **done), *([reads("b", 9)] if two else [])))
    return wishes


def test_machine_is_full_when_another_replica_brings_nothing_and_stays_so_for_ten_minutes() -> None:
    skill = Scaled()
    wishes = throughput(skill, 100.0, 105.0)
    assert wishes[19] > 2
    assert (wishes[-1], skill.decision.full) == (2, True)
    assert "full" in skill.decision.why
    busy = reads("a", 9, work_arrived_s=1e4, work_done_s=1e4, total_requests=10_000), reads("b", 9)
    assert skill.watch(int(FULL_S) - 40, *busy)[-1] == 2
    assert skill.watch(40, *busy)[-1] > 2


def test_replica_that_hinders_the_other_goes_again() -> None:
    skill = Scaled()
    assert throughput(skill, 100.0, 50.0)[-1] == 1


def test_a_trial_ends_if_nobody_has_looked_for_long() -> None:
    skill = Scaled(target_wait_s=0.5)
    tokens = 0.0
    for second in range(25):
        tokens += 100.0
        done = {"work_done_s": tokens * 0.01, "work_arrived_s": 3.0 * second, "total_requests": second}
        skill.see(reads("a", 9, **done), *([reads("b", 9)] if second >= 20 else []))
    assert skill.state.trial is not None
    skill.see(reads("a", 9, work_done_s=25.0, work_arrived_s=99.0, total_requests=99), reads("b", 9), seconds=1000.0)
    assert skill.state.trial is None


def test_machine_is_not_full_when_another_replica_brings_something() -> None:
    skill = Scaled()
    assert throughput(skill, 100.0, 170.0)[-1] > 2
    assert not skill.decision.full


# --- theory ---


def test_square_root_staffing_lets_one_request_in_a_hundred_wait() -> None:
    load, replicas = 100.0, math.ceil(staffing(100.0))
    term = total = 1.0
    for number in range(1, replicas):
        term *= load / number
        total += term
    waits = term * load / replicas * replicas / (replicas - load)
    assert waits / (total + waits) < 0.013  # Erlang C


def test_predicted_wait_is_that_of_one_queue_and_infinite_at_too_many_requests() -> None:
    assert predicted_wait_s(1, 0.5, 10.0) == pytest.approx(10.0)  # M/M/1: 10 s x 0.5 / (1 - 0.5)
    assert 0.07 < predicted_wait_s(10, 5.0, 10.0) < 0.2  # exactly 0.07; the approximation is on the safe side
    assert predicted_wait_s(2, 2.0, 10.0) == math.inf
    assert predicted_wait_s(2, 0.0, 0.0) == 0.0


def test_forecast_goes_from_what_is_busy_to_square_root_staffing() -> None:
    assert forecast(9.0, 4.0, 10.0, 0.0, 4.0) == 9.0
    assert forecast(9.0, 4.0, 10.0, 1000.0, 4.0) == pytest.approx(4.0 + 2 * BETA)
    assert forecast(4.0, 4.0, 10.0, 3.0, 20.0) > forecast(4.0, 4.0, 10.0, 3.0, 4.0)


def test_bursts_are_told_from_requests_that_come_one_by_one() -> None:
    steady, bursts = [3] * 20, [0] * 18 + [30] * 2
    assert burstiness(20, sum(steady), sum(number**2 for number in steady)) == 1.0
    assert burstiness(20, sum(bursts), sum(number**2 for number in bursts)) == pytest.approx(27.0)
    assert burstiness(0, 0, 0) == 1.0
