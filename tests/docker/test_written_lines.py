"""Users' commands with containers, run as written in a fresh clone, with the name and port that they name."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import written_lines as lines
from tests.docker.asking import CALL_S, MARKS
from tests.servers import ROOT, TINY
from tests.source_tree import blocks, make_environment, sections, typed

pytestmark = [*MARKS, pytest.mark.usefixtures("free_name_and_port")]
SERVING = "until docker exec skill_draft /opt/sarai/health_probe 127.0.0.1 50051; do sleep 0.2; done\n"
CPUS = int(subprocess.run(["nproc", "--all"], check=True, capture_output=True, text=True).stdout)


@pytest.fixture
def tree(clone: Path) -> Iterator[Path]:
    """Prepare a clone with an environment, and remove its container afterwards."""
    make_environment(clone)
    yield clone
    subprocess.run(["docker", "rm", "--force", "skill_draft"], capture_output=True, check=False)


def type_(script: str, tree: Path) -> str:
    path = os.pathsep.join((f"{tree}/.venv/bin", str(Path(sys.executable).parent), os.environ["PATH"]))
    environment = {"PATH": path}
    if "DOCKER_CONFIG" in os.environ:
        environment["DOCKER_CONFIG"] = os.environ["DOCKER_CONFIG"]
    return typed(script, tree, timeout_s=2 * CALL_S, **environment)


def test_compose_up_both_clients_and_the_health_lines(tree: Path, compose: tuple[str, ...]) -> None:
    up = lines.COMPOSE_UP.replace("docker-compose", " ".join(compose))
    down = f"{' '.join(compose)} down --volumes --timeout 3"
    try:
        said = type_(
            f"{up}\n{SERVING}{lines.CLIENTS}{lines.DOCKER_HEALTH}\n{lines.GRPCURL_BY_BUF}{lines.GRPCURL}", tree
        )
    finally:
        type_(down, tree)
    assert re.search(r"^pool: .{4,}, \d+ tokens$", said, re.MULTILINE), said
    assert re.search(r"^stub: SERVING, \d+ MB, \d+ %, 2 requests$", said, re.MULTILINE), said
    assert '\nstatus: "SERVING"\n' in said
    assert said.count('"status": "SERVING"') == 2


def test_docker_run_serves_the_model_of_the_mounted_folder(tree: Path) -> None:
    shutil.copy2(TINY, tree / "models")
    said = type_(f"{lines.DOCKER_RUN}\n{SERVING}{lines.DOCKER_HEALTH}\n{lines.CLIENTS}", tree)
    assert f'model: "{TINY.stem}"' in said
    assert re.search(r"^pool: .{4,}, \d+ tokens$", said, re.MULTILINE), said


def test_the_lines_of_the_skills_readme(tree: Path) -> None:
    """Each line as written, except that `--cpus=4` is adapted: a machine with fewer CPUs would refuse it."""
    shutil.copy2(TINY, tree / "models")
    document = ROOT / "skills" / "skill_draft" / "README.md"
    *_, run, look = blocks(sections(document)["In a container"], "sh")
    assert "--cpus=4" in look
    said = type_(f"{run}\n{SERVING}{look.replace('--cpus=4', f'--cpus={CPUS}')}", tree)
    assert f'model: "{TINY.stem}"' in said
    (ask,) = blocks(sections(document)["Call it"], "sh")
    said = type_(f"{run}\n{SERVING}{lines.GRPCURL_BY_BUF}{ask}", tree)
    assert said.count('"status": "SERVING"') == 2
