"""The simulation does what the real parts do, and the policy in it keeps its promises on small loads."""

from __future__ import annotations

import random

import numpy as np
import pytest

from bench.scaling.__main__ import read
from bench.scaling.loads import Floats, Load, made, trace
from bench.scaling.oracle import Oracle, cheapest_plan
from bench.scaling.ours import Ours
from bench.scaling.outcome import Faults, Outcome
from bench.scaling.pool import Pool
from bench.scaling.replicas import PROMPT_TOKEN_S, Replica, Request
from bench.scaling.rivals import HPA, KPA, Ray
from bench.scaling.runs import CODE, GOAL, TARGET_S
from bench.scaling.shapes import SHAPES, growth, phases
from bench.scaling.table import PAGE, table
from bench.scaling.world import Scaler, World
from core.pool.balance import UNREAD, Affinity, choose, misplaced
from core.pool.records import Attempt, Call
from core.pool.records import Replica as PoolReplica
from core.scaling.policy import SHORTEST_HOLD_S
from core.scaling.samples import Limits


@pytest.mark.parametrize("seed", range(5))
def test_choice_in_arrays_is_the_pool_s_choice(seed: int) -> None:
    chance = random.Random(seed)
    replicas, pool, affinity = [PoolReplica(f"r{n}", known=True) for n in range(5)], Pool(), Affinity()
    assert [pool.join() for _ in replicas] == [*range(5)]
    running: list[tuple[Attempt, int, int]] = []
    moved, now = set[int](), 0.0
    for key in range(300):
        now += chance.expovariate(2.0)
        for attempt, name, at in [each for each in running if chance.random() < 0.3]:
            if attempt.tokens and chance.random() < 0.5:
                running.remove((attempt, name, at))
                replicas[at].attempts.pop(attempt)
                replicas[at].note_latency(attempt, now)
                pool.end(at, name, now, seconds=now - attempt.began_s, tokens=attempt.tokens,
                         wait_s=max(attempt.longest_wait_s, now - attempt.heard_s))  # fmt: skip
            elif not attempt.tokens:
                attempt.hear(chance.randint(1, 50), now)
                pool.hear(at, name)
        for attempt, _, _ in running:
            if attempt.tokens:
                attempt.heard_s = now  # answers that are written are heard of all the time
        pair, found = misplaced(replicas, now), pool.misplaced(now, moved)
        assert (pair is None) == (found is None)
        if pair is not None and found is not None:
            old = next(each for each in running if each[1] == found[0])
            assert (old[0], replicas[found[2]]) == pair
        call = Call("Generate", now + 60.0)
        call.race = lambda _: None
        chosen = choose(call, replicas, affinity, now, unread=UNREAD)
        at = pool.choose(now)
        assert replicas[at] is chosen
        attempt = Attempt(call, replicas[at], now)
        replicas[at].attempts[attempt] = None
        pool.begin(at, key, now)
        running.append((attempt, key, at))


def test_replica_reads_the_shortest_prompt_first_and_always_a_part_of_the_oldest() -> None:
    replica, now = Replica("r", 0.0), 0.0
    long, short = Request(0.0, 1000, 1), Request(0.0, 100, 1)
    for request in (long, short):
        replica.add(request)
    while np.isnan(long.first_s):
        now += replica.next_s()
        replica.advance(now)
        replica.finish(now)
    alone_s = 100 * PROMPT_TOKEN_S
    assert short.first_s == pytest.approx(alone_s / 0.75, rel=0.05)
    assert short.wait_s == pytest.approx(alone_s / 3, rel=0.05)
    assert replica.done_s == pytest.approx(1100 * PROMPT_TOKEN_S, rel=0.01)


def test_cheapest_plan_stays_over_short_gaps_alone() -> None:
    least = np.array([1.0, 2, 1, 2, 1, 1, 1, 2])
    assert cheapest_plan(least, 10.0).tolist() == [1, 2, 2, 2, 1, 1, 1, 2]
    assert cheapest_plan(least, 0.0).tolist() == least.tolist()


def run(load: Load, scaler: Scaler, **how: object) -> Outcome:
    return World(load, scaler, **how).outcome()  # type: ignore[arg-type]


def flat(replicas: float, minutes: int) -> Load:
    def rate(t: Floats) -> Floats:
        return np.full_like(t, replicas)

    return made("flat", rate, 60.0 * minutes)


def test_at_constant_load_the_number_hardly_moves_and_no_replica_goes_before_the_hold() -> None:
    outcome = run(flat(9.0, 20), Ours(), initial=12)
    numbers = outcome.ticks[outcome.ticks[:, 0] > 300, 1]
    assert numbers.std() <= 1.5 * 3.0
    assert min(outcome.lives_s) >= SHORTEST_HOLD_S
    assert outcome.kept() > 0.97
    assert outcome.lost == 0


def test_square_wave_makes_one_phase_up_and_one_down_a_period_and_a_step_no_overshoot() -> None:
    # Ten periods, and five minutes to compare the step with; `bench.scaling` runs an hour of each.
    loads = [made(name, SHAPES[name][0], span_s) for name, span_s in (("square wave", 1200.0), ("step x10", 2100.0))]
    wave, step = (run(load, Ours(), initial=initial) for load, initial in zip(loads, (48, 6), strict=True))
    assert phases(wave.ticks)["most in one direction"] == 1
    figures = growth(step.ticks, step.load)
    assert figures["after"] <= 1.15 * figures["later"]
    assert figures["lag"] <= 2.0 + 2 * Ours.tick_s
    assert min(wave.kept(TARGET_S), step.kept(TARGET_S)) >= GOAL


def test_bursts_keep_their_goal_and_cost_less_where_replicas_go_early() -> None:
    code = trace(CODE)
    first = code.at_s < 300.0
    load = Load("bursts", code.at_s[first], code.prompt[first], code.answer[first], 300.0)
    patient, strict = (run(load, Ours(Limits(low=1, high=1000, target_wait_s=target_s)), initial=60)
                       for target_s in (TARGET_S, TARGET_S / 10))  # fmt: skip
    assert patient.kept() > 0.95
    assert patient.relative_cost < 0.8 * strict.relative_cost


def test_page_has_the_table_of_the_results() -> None:
    assert table(read()) in PAGE.read_text(encoding="utf-8")


def test_faults_lose_no_call() -> None:
    faults = Faults(stale_s=15.0, death_every_s=20.0, failed_starts=0.5, slow=True, reset_every_s=20.0)
    outcome = run(flat(4.0, 10), Ours(), faults=faults, initial=6)
    assert outcome.lost == 0
    assert outcome.starts > 20


def test_rivals_and_oracle_follow_the_load_too() -> None:
    load = flat(6.0, 10)
    scalers: list[Scaler] = [
        HPA(0.7, by_cpu=False), HPA(0.7, by_cpu=True), KPA(1.0), Ray(1.0, up_s=0.0), Oracle(load, 2.0, 1.3),
    ]  # fmt: skip
    for scaler in scalers:
        outcome = run(load, scaler, initial=1)
        assert outcome.lost == 0
        assert 5 < outcome.ticks[:, 1].max() < 40
