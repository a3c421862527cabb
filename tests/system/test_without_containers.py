"""Tests with containers on a machine without an engine: one line says why, and the run succeeds."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.servers import ROOT

FILES = ("tests/docker/test_container.py", "tests/docker/test_costs.py", "tests/chaos/test_containers.py")


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {
        name: value for name, value in os.environ.items() if name != "CI" and not name.startswith(("SARAI_", "PYTEST_"))
    }  # pytest says more in CI
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments],
        cwd=ROOT, env={**clean, **environment}, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip


def path_with_docker(folder: Path, script: str) -> str:
    """Return a PATH whose docker command runs this script."""
    (command := folder / "docker").write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    command.chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


def test_without_docker_they_are_skipped_and_one_line_says_what_helps(tmp_path: Path) -> None:
    done = run(*FILES, PATH=str(tmp_path))
    assert done.returncode == 0, done.stdout
    (line,) = [line for line in done.stdout.splitlines() if "docker command" in line]
    number = re.fullmatch(r"not run  (\d+): there is no docker command: install Docker .*", line)
    assert number is not None
    assert int(number[1]) > 15
    assert f"{number[1]} skipped in" in done.stdout


def test_with_an_engine_that_does_not_answer_it_is_the_same(tmp_path: Path) -> None:
    done = run(FILES[1], PATH=path_with_docker(tmp_path, "echo the engine is not well >&2; exit 1"))
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("(the engine is not well): start the engine") == 1


def test_where_they_are_required_it_is_one_error_before_any_test(tmp_path: Path) -> None:
    done = run(*FILES, "tests/unit/loop", PATH=str(tmp_path), SARAI_REQUIRE_DOCKER="1")
    assert done.returncode not in (0, 1)
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert "SARAI_REQUIRE_DOCKER=1, and no container can be tested" in done.stderr
    assert "passed" not in done.stdout


def test_an_image_that_cannot_be_built_is_one_error(tmp_path: Path) -> None:
    path = path_with_docker(tmp_path, '[ "$1" != build ] || { echo the Dockerfile is wrong; exit 1; }')
    done = run(*FILES, PATH=path, XDG_STATE_HOME=str(tmp_path))
    assert done.returncode == 1
    assert done.stdout.count("the Dockerfile is wrong") == 1
    assert re.search(r"skipped, 1 error in", done.stdout)
    assert done.stdout.count("the image cannot be built") == 1


def test_a_builder_without_network_is_no_failure(tmp_path: Path) -> None:
    path = path_with_docker(tmp_path, '[ "$1" != build ] || { echo "Temporary failure resolving archive"; exit 1; }')
    done = run(FILES[1], PATH=path, XDG_STATE_HOME=str(tmp_path))
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("takes the network, and there is none: Temporary failure resolving archive") == 1
