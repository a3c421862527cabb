"""Replicas in containers: compose brings them, and the one that is chosen goes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from core.local.compose import Project
from core.pool.client import SkillClient
from core.rpc.health import check_serving
from core.scaling.containers import Containers
from core.scaling.replicas import Running, usable_cores
from skills.skill_draft.plugin import sarai_skills
from tests.docker.asking import CALL_S, MARKS, endless

pytestmark = MARKS
SPEC = sarai_skills()[0]


def wait_for(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 280  # compose may have to build the image
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.2)


def cores(replica: Running) -> set[str]:
    told = subprocess.run(["docker", "inspect", replica.id], capture_output=True, check=True)
    return set(json.loads(told.stdout)[0]["HostConfig"]["CpusetCpus"].split(","))


@pytest.fixture
def project(clone: Path, compose: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    """Yield a compose project of the clone with ports of its own; all that it has brought goes at the end."""
    monkeypatch.setenv("SARAI_DRAFT_PORTS", "51161-51168")
    project = Project(command=compose, folder=clone, name=f"sarai-auto-{os.getpid()}")
    yield project
    subprocess.run(project.argv("down", "--volumes", "--timeout", "3"), cwd=clone, check=True)


@pytest.fixture
def containers(project: Project) -> Iterator[Containers]:
    containers = Containers(SPEC, project=project)
    yield containers
    containers.close()


def test_containers_come_with_cores_of_their_own_and_the_chosen_one_goes(
    containers: Containers, project: Project
) -> None:
    def there(number: int) -> list[Running]:
        wait_for(lambda: (len(containers.replicas()), containers.starting) == (number, 0))
        return containers.replicas()

    assert there(0) == []
    containers.start(2)
    first, second = there(2)
    assert len(usable_cores()) == 1 or cores(first).isdisjoint(cores(second))
    assert {first.target, second.target} <= {f"127.0.0.1:{port}" for port in range(51161, 51169)}
    lower = min(first, second, key=lambda each: each.name)  # compose would take the other one
    (other,) = {first, second} - {lower}
    containers.drain(lower.id)
    assert [each.id for each in containers.replicas()] == [other.id]
    wait_for(lambda: not containers.replicas()[1:] and containers.draining == 0)
    assert cores(there(1)[0]) == {str(core) for core in usable_cores()}
    containers.start(1)
    assert other.id in {each.id for each in there(2)}
    adopting = Containers(SPEC, project=project, pins=False)
    assert adopting.replicas() == containers.replicas()
    adopting.close()


def test_one_that_drains_is_no_replica_any_more_but_one_that_compose_counts(containers: Containers) -> None:
    containers.start(1)
    wait_for(lambda: len(containers.replicas()) == 1)
    (going,) = containers.replicas()
    wait_for(lambda: check_serving(going.target, SPEC.health_service, timeout_s=2.0))
    with SkillClient.at(SPEC, going.target) as client:
        stream = client.GenerateStream(endless(), timeout=CALL_S)
        next(stream)
        containers.drain(going.id)
        assert (containers.replicas(), containers.draining) == ([], 1)
        containers.start(1)
        wait_for(lambda: containers.replicas() != [])
        (coming,) = containers.replicas()
        assert (coming.id != going.id, containers.draining) == (True, 1), "compose keeps the one that drains"
        assert cores(coming) == {str(core) for core in usable_cores()}, "those of the one that drains are shared"
        stream.close()
    wait_for(lambda: containers.draining == 0)
    assert [each.id for each in containers.replicas()] == [coming.id]


def test_what_a_killed_autoscaler_had_compose_start_is_drained_too(
    clone: Path, compose: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SARAI_DRAFT_PORTS", "51161-51168")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    project = Project(command=compose, folder=clone)
    command = [sys.executable, "-m", "sarai", "autoscale", "draft", "--on", "compose"]
    try:
        with subprocess.Popen([*command, "--json"], cwd=clone, stdout=subprocess.PIPE) as killed:
            assert killed.stdout is not None
            assert b'"start"' in killed.stdout.readline()
            killed.kill()
        stopped = subprocess.run([*command, "--stop"], cwd=clone, check=True, capture_output=True, text=True)
        assert "drains" in stopped.stdout
        assert project.containers() == []
    finally:
        subprocess.run(project.argv("down", "--volumes", "--timeout", "3"), cwd=clone, check=True)
