"""One run: traffic, a fault, traffic, a check of the history, repeated; a seed decides the faults."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Sequence

from core.config import PoolConfig
from core.model_pool import ModelPool
from tests.chaos.faults import FAULTS, Fault
from tests.chaos.footprint import Footprint, wait_back_to
from tests.chaos.history import FaultTime, History
from tests.chaos.load import CALLERS, Load, ask
from tests.chaos.questions import Question, questions
from tests.chaos.replicas import Replica, wait_idle, wait_serving

VARIABLE = "SARAI_DRAFT_TARGET"
NUM_FAULTS = int(os.environ.get("SARAI_CHAOS_FAULTS", "10"))
SEED = int(os.environ.get("SARAI_CHAOS_SEED") or random.SystemRandom().randrange(10**6))
HEDGE_S = float(os.environ.get("SARAI_CHAOS_HEDGE_S", "0"))
"""Above 0 the pool also hedges (SARAI_HEDGE_S); its promises are the same."""
TRAFFIC_S = 1.0
FAULT_S = (0.2, 2.0)
FAULT_AND_RESTART_S = 15.0
"""How long one fault, with traffic and restart, may take on a busy machine, seconds."""


def pool_of(replicas: Sequence[Replica], **settings: float) -> ModelPool:
    """Return a pool that calls the replicas through their proxies."""
    targets = ",".join(replica.proxy.target for replica in replicas)
    return ModelPool(PoolConfig(targets={VARIABLE: targets}, **settings))  # type: ignore[arg-type]


def run(replicas: Sequence[Replica], *, max_tokens: int, num_faults: int = NUM_FAULTS, seed: int = SEED) -> None:
    """Run callers and faults, and check every call, retry budget and leaks."""
    print(f"\n{num_faults} faults, SARAI_CHAOS_SEED={seed}")
    rng = random.Random(seed)
    for replica in replicas:
        wait_serving(replica)
    asked = questions(rng, replicas[0].stub, number=4 * CALLERS, max_tokens=max_tokens)
    _warm_up(replicas, asked)
    before = Footprint.now()
    history = History(frozenset(question.nonce for question in asked))
    with pool_of(replicas, hedge_s=HEDGE_S) as pool:
        client = pool.get_skill_client("draft")
        with Load(client, asked, history) as load:
            _script(rng, replicas, load, history, num_faults)
        stats = client.stats()
    print(history.figures(), *history.failed, sep="\n")
    print(
        f"{stats.calls} calls, {stats.attempts} attempts, {stats.failovers} failovers, {stats.retries} retries, "
        f"{stats.hedges} hedges"
    )
    for replica in replicas:
        wait_idle(replica)
    wait_back_to(before)
    _check(history)
    assert stats.calls >= len(history.outcomes), "the pool has not counted every call"
    assert stats.attempts <= 1.2 * stats.calls + 3


def _warm_up(replicas: Sequence[Replica], asked: Sequence[Question]) -> None:
    """Make first calls: resources that gRPC keeps permanently after them are no leak."""
    with pool_of(replicas) as pool:
        client = pool.get_skill_client("draft")
        for streamed in (True, False):
            question = next(question for question in asked if question.streamed == streamed)
            assert ask(client, question).error is None


def _script(rng: random.Random, replicas: Sequence[Replica], load: Load, history: History, num_faults: int) -> None:
    deck: list[Fault] = []
    for number in range(1, num_faults + 1):
        load.go_on(TRAFFIC_S)
        if not deck:  # each fault occurs once before one is repeated
            deck = rng.sample(FAULTS, len(FAULTS))
        fault, replica = deck.pop(), rng.choice(replicas)
        name, begin_s = f"{number}: {fault.__name__} of {replica.name}", time.monotonic()
        history.note(FaultTime(name=name, begin_s=begin_s))
        with fault(replica):
            load.go_on(rng.uniform(*FAULT_S))
        wait_serving(replica)
        history.note(FaultTime(name=name, begin_s=begin_s, end_s=time.monotonic()))
        load.go_on(TRAFFIC_S)
        print(f"{name}: {time.monotonic() - begin_s:.1f} s, {len(history.outcomes)} calls so far")
        _check(history)


def _check(history: History) -> None:
    shown = "\n".join(history.wrong[:5])
    assert not history.wrong, f"{len(history.wrong)} of {len(history.outcomes)} calls:\n{shown}"
