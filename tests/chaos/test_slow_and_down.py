"""One slow replica; no replica at all."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from core.errors import CallError, UnavailableError
from skills import skills_pb2
from tests.chaos.history import late, problems_of, quantile
from tests.chaos.load import CALLERS, ask
from tests.chaos.questions import Question, questions
from tests.chaos.replicas import ProcessReplica, wait_serving
from tests.chaos.run import pool_of
from tests.fault_proxy import FaultProxy

DELAY_S = 0.5
LEARNING_S = 4.0
"""The pool has to measure the slow replica before it can avoid it."""
FEW_CALLERS = 6
TIMEOUT_S = 3.0


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[ProcessReplica]]:
    folder = tmp_path_factory.mktemp("replicas")
    with contextlib.ExitStack() as stack:
        found = [stack.enter_context(ProcessReplica(name, folder)) for name in "abc"]
        for replica in found:
            wait_serving(replica)
        yield found


@pytest.fixture
def replicas(running: list[ProcessReplica]) -> Iterator[list[ProcessReplica]]:
    yield running
    for replica in running:
        replica.proxy.heal()


@pytest.fixture(scope="module")
def asked(running: list[ProcessReplica]) -> list[Question]:
    return questions(random.Random(1), running[0].stub, number=64, max_tokens=12)


def test_a_replica_behind_a_slow_network_is_avoided(replicas: list[ProcessReplica], asked: list[Question]) -> None:
    slow = replicas[0]
    with pool_of(replicas) as pool, ThreadPoolExecutor(FEW_CALLERS) as callers:
        client = pool.get_skill_client("draft")
        slow.proxy.delay(DELAY_S)
        learnt_s = time.monotonic() + LEARNING_S
        while time.monotonic() < learnt_s:
            list(callers.map(lambda question: ask(client, question), asked))
        before = slow.stub.Health(skills_pb2.HealthReq()).total_requests
        outcomes = list(callers.map(lambda question: ask(client, question), asked * 6))
        there = slow.stub.Health(skills_pb2.HealthReq()).total_requests - before
    assert [problem for outcome in outcomes for problem in problems_of(outcome, frozenset())] == []
    p99_s = quantile(sorted(outcome.end_s - outcome.begin_s for outcome in outcomes), 0.99)
    print(
        f"{there} of {len(outcomes)} calls went to the slow one, where each takes {2 * DELAY_S:g} s; p99 {p99_s:.2f} s"
    )
    assert p99_s < 2 * DELAY_S


@pytest.mark.parametrize("fault", [FaultProxy.refuse, FaultProxy.stall, FaultProxy.cut_off], ids=lambda f: f.__name__)
def test_without_any_replica_every_call_fails_in_time_and_says_which_were_tried(
    replicas: list[ProcessReplica], asked: list[Question], fault: Callable[[FaultProxy], None]
) -> None:
    with pool_of(replicas, recovery_s=1.0) as pool, ThreadPoolExecutor(CALLERS) as callers:
        client = pool.get_skill_client("draft")
        assert all(o.error is None for o in callers.map(lambda question: ask(client, question), asked))
        for replica in replicas:
            fault(replica.proxy)
        outcomes = list(callers.map(lambda question: ask(client, question, timeout_s=TIMEOUT_S), asked[:CALLERS]))
        for outcome in outcomes:
            assert isinstance(outcome.error, CallError), outcome
            assert outcome.error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
            assert not late(outcome)
            tried = [replica.proxy.target in str(outcome.error) for replica in replicas]
            assert any(tried), str(outcome.error)
            if fault is FaultProxy.refuse:
                assert isinstance(outcome.error, UnavailableError), outcome.error
                assert all(tried), str(outcome.error)
        for replica in replicas:
            replica.proxy.heal()
        until_s = time.monotonic() + 30
        while (outcome := ask(client, asked[0], timeout_s=TIMEOUT_S)).error is not None:
            assert time.monotonic() < until_s, f"the replicas are back, but calls still fail: {outcome.error}"
        assert problems_of(outcome, frozenset()) == []


def test_a_call_that_waits_for_the_last_replica_is_answered_when_it_is_back(
    replicas: list[ProcessReplica], asked: list[Question]
) -> None:
    with pool_of(replicas) as pool:
        client = pool.get_skill_client("draft")
        assert ask(client, asked[0]).error is None
        for replica in replicas:
            replica.proxy.refuse()
        back = threading.Timer(1.0, replicas[1].proxy.heal)
        back.start()
        outcome = ask(client, asked[1], timeout_s=20)
        back.join()
    assert problems_of(outcome, frozenset()) == []
