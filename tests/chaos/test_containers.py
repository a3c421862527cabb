"""Three replicas in containers, under load and faults; and one of them with hardly any CPU."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from core.testing import SkillContainers
from skills import skills_pb2
from tests.chaos.containers import ContainerReplica
from tests.chaos.history import Outcome, quantile
from tests.chaos.load import ask
from tests.chaos.questions import questions
from tests.chaos.replicas import GRACE_S, wait_serving
from tests.chaos.run import FAULT_AND_RESTART_S, NUM_FAULTS, pool_of, run
from tests.docker.asking import tiny_service

SETTINGS = {
    "SKILL_DRAFT_THREADS": "1", "SKILL_DRAFT_N_CTX": "512", "SKILL_DRAFT_KV_CELLS": "4096",
    "SKILL_DRAFT_GRACE_S": f"{GRACE_S:g}", "SKILL_DRAFT_CACHE_MB": "0",
}  # fmt: skip
SLOW_CPUS = 0.1
CALLERS = 3
LONG = 160

pytestmark = pytest.mark.docker


@pytest.fixture(scope="module", autouse=True)
def image(skill_container: SkillContainers) -> None:
    """Build the image before any test's timeout begins: the first time, that takes minutes."""
    skill_container.build("draft")


@pytest.fixture
def replicas(skill_container: SkillContainers, image: None) -> Iterator[list[ContainerReplica]]:
    del image
    with contextlib.ExitStack() as stack:
        found = []
        for name in "abc":
            own = skill_container.own("draft", environment=SETTINGS, service=tiny_service())
            _, container = stack.enter_context(own)
            found.append(stack.enter_context(ContainerReplica(name, container)))
        yield found


@pytest.mark.timeout(240 + 2 * NUM_FAULTS * FAULT_AND_RESTART_S)
def test_every_call_ends_once_with_its_own_answer_whatever_happens_to_its_container(
    replicas: list[ContainerReplica],
) -> None:
    run(replicas, max_tokens=240)


@pytest.mark.timeout(300)
def test_a_container_with_a_tenth_of_a_cpu_is_avoided(replicas: list[ContainerReplica]) -> None:
    asked = questions(random.Random(1), replicas[0].stub, number=40, max_tokens=LONG)
    # Short answers need less CPU time than such a container has in each 100 ms, so they are fast there too.
    long = [question for question in asked if question.answer.tokens_generated >= LONG // 2]
    slow = replicas[0]
    slow.limit_cpus(SLOW_CPUS)
    wait_serving(slow)
    with pool_of([slow]) as alone:
        slow_s = min(time_of(ask(alone.get_skill_client("draft"), question)) for question in long[:3])
    with pool_of(replicas) as pool, ThreadPoolExecutor(CALLERS) as callers:
        client = pool.get_skill_client("draft")
        list(callers.map(lambda question: ask(client, question), long * 2))  # the pool has to try the slow one first
        before = slow.stub.Health(skills_pb2.HealthReq()).total_requests
        times = sorted(callers.map(lambda question: time_of(ask(client, question)), long * 6))
        there = slow.stub.Health(skills_pb2.HealthReq()).total_requests - before
    print(
        f"{there} of {len(times)} calls went to the one with {SLOW_CPUS:g} CPUs, which alone takes {slow_s:.2f} s or "
        f"more for each; p99 {quantile(times, 0.99):.2f} s"
    )
    assert quantile(times, 0.99) < slow_s


def time_of(outcome: Outcome) -> float:
    """Return the seconds that a call took; fail if it ended with an error."""
    assert outcome.error is None, outcome.error
    return outcome.end_s - outcome.begin_s
