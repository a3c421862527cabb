"""Replicas in containers: compose brings them, and the one that is chosen goes."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from core.local.compose import Project
from core.scaling.containers import Containers
from core.scaling.replicas import Running, usable_cores
from skills.skill_draft.plugin import sarai_skills
from tests.docker.asking import MARKS

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


def test_containers_come_with_cores_of_their_own_and_the_chosen_one_goes(
    clone: Path, compose: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SARAI_DRAFT_PORTS", "51161-51168")
    project = Project(command=compose, folder=clone, name=f"sarai-auto-{os.getpid()}")
    containers = Containers(SPEC, project=project)

    def there(number: int) -> list[Running]:
        wait_for(lambda: (len(containers.replicas()), containers.starting) == (number, 0))
        return containers.replicas()

    try:
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
    finally:
        containers.close()
        subprocess.run(project.argv("down", "--volumes", "--timeout", "3"), cwd=clone, check=True)
