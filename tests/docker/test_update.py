"""`docker update` on a running container takes effect."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable

import pytest

from core.testing import SkillContainer
from tests.docker.asking import MARKS, OwnTiny, greedy
from tests.docker.test_container import inside

pytestmark = MARKS
GIB = 1 << 30


def soon(holds: Callable[[], bool], container: SkillContainer, *, within_s: float = 15.0) -> None:
    until_s = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < until_s, container.logs()
        time.sleep(0.1)


def test_cpus_are_used_within_seconds_and_the_log_says_so(own_tiny: OwnTiny) -> None:
    asked = subprocess.run(["docker", "info", "-f", "{{.NCPU}}"], check=True, capture_output=True, text=True)
    if int(asked.stdout) < 2 or len(os.sched_getaffinity(0)) < 2:
        pytest.skip("the engine's machine has one CPU")
    with own_tiny(environment={"SKILL_DRAFT_THREADS": ""}, service={"cpus": 1}) as (client, container):
        answer = client.Generate(greedy(), timeout=60).text
        assert client.Health().threads == 1
        container.docker("update", "--cpus=2")
        soon(lambda: client.Health().threads == 2, container)
        assert client.Generate(greedy(), timeout=60).text == answer
        container.docker("update", "--cpus=1")
        soon(lambda: client.Health().threads == 1, container)
        assert client.Generate(greedy(), timeout=60).text == answer
        assert "the limits have changed: 2 CPUs and 3,072 MB, before 1 CPUs and 3,072 MB" in container.logs()
        assert client.Health().engine.restarts == 0


def test_memory_is_used_by_the_next_engine_and_the_log_says_so(own_tiny: OwnTiny) -> None:
    with own_tiny() as (client, container):
        container.docker("update", "--memory=4g")
        soon(lambda: "and 4,096 MB, before" in container.logs(), container)
        assert "the next engine will be sized for the new memory limit" in container.logs()
        assert inside(container)["memory"] == 4 * GIB
        engine = container.exec("cat", "/proc/1/task/1/children").split()[0]
        container.exec("python3", "-c", f"import os; os.kill({engine}, 9)")
        soon(lambda: client.Health().engine.restarts == 1 and client.Health().status == "SERVING", container)
        assert client.Generate(greedy(), timeout=60).text
