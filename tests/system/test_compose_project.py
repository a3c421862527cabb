"""Containers: commands affect only the source tree's project, whatever the caller's environment and folder are."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from core.local.compose import STEERING

ROOT = Path(__file__).parents[2]
# Replaces the container engine's command: records where and how it is called, and answers the command line.
DOCKER = """#!/bin/sh
{ pwd; env | grep -o '^COMPOSE_[A-Z_]*' | tr '\\n' ' '; echo; echo "$*"; } >> "$DOCKER_CALLS"
case "$*" in *"config --services") echo skill_draft; esac
"""
COMMANDS = {
    "down": (["down"], "compose down"),
    "down draft": (["down", "draft"], "compose rm --stop --force skill_draft"),
    "up": (["up", "draft", "--timeout", "0.1"], "compose up -d skill_draft"),
    "ps": (["ps"], "compose ps --all --quiet skill_draft"),
    "logs": (["logs"], "compose logs --no-color skill_draft"),
}


@dataclass(frozen=True, slots=True)
class Call:
    """One call of the container engine's command."""

    folder: Path
    compose_variables: list[str]
    arguments: str


class Caller:
    """A user whose shell is set up for another project."""

    def __init__(self, folder: Path) -> None:
        self.foreign = folder / "foreign"
        self.foreign.mkdir()
        (self.foreign / "docker-compose.yml").write_text("services: {theirs: {image: theirs}}\n")
        (self.foreign / ".env").write_text("COMPOSE_PROJECT_NAME=foreign\n")
        self._bin = folder / "bin"
        self._bin.mkdir()
        (self._bin / "docker").write_text(DOCKER)
        (self._bin / "docker").chmod(0o755)
        self._calls = folder / "calls"
        self._calls.touch()

    def sarai(self, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        """Run a command as this user would."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("SARAI_", "COMPOSE_"))}
        environment |= {
            "PATH": f"{self._bin}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "DOCKER_CALLS": str(self._calls),
            **dict.fromkeys(STEERING, "foreign"),
            "COMPOSE_FILE": str(self.foreign / "docker-compose.yml"),
            "COMPOSE_PROFILES": "big",
        }
        return subprocess.run(
            [sys.executable, "-m", "sarai", *arguments], cwd=cwd, env=environment, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip

    def compose_calls(self) -> Sequence[Call]:
        """Return the calls of compose, in order."""
        lines = iter(self._calls.read_text().splitlines())
        calls = [Call(Path(folder), next(lines).split(), next(lines)) for folder in lines]
        return [call for call in calls if call.arguments.startswith("compose") and call.arguments != "compose version"]


@pytest.fixture
def caller(tmp_path: Path) -> Caller:
    return Caller(tmp_path)


@pytest.mark.parametrize("command", COMMANDS)
def test_environment_leads_to_no_other_project(caller: Caller, command: str) -> None:
    arguments, expected = COMMANDS[command]
    run = caller.sarai(*arguments, cwd=ROOT / "docs")
    assert "error" not in run.stderr or "not SERVING in time" in run.stderr
    calls = caller.compose_calls()
    assert expected in [call.arguments for call in calls]
    assert {call.folder for call in calls} == {ROOT}
    assert {name for call in calls for name in call.compose_variables} == {"COMPOSE_PROFILES"}


@pytest.mark.parametrize("command", COMMANDS)
def test_compose_file_of_the_current_folder_is_another_project(caller: Caller, command: str) -> None:
    caller.sarai(*COMMANDS[command][0], cwd=caller.foreign)
    assert {call.folder for call in caller.compose_calls()} == {ROOT}


def test_dry_run_prints_a_line_that_does_the_same_when_it_is_typed_there(caller: Caller, tmp_path: Path) -> None:
    line = caller.sarai("down", "--dry-run", cwd=caller.foreign).stdout
    before = len(caller.compose_calls())
    environment = os.environ | dict.fromkeys(STEERING, "foreign")
    environment["PATH"] = f"{tmp_path / 'bin'}{os.pathsep}{environment['PATH']}"
    environment["DOCKER_CALLS"] = str(tmp_path / "calls")
    subprocess.run(["sh", "-c", line], cwd=caller.foreign, env=environment, check=True)
    (call,) = caller.compose_calls()[before:]
    assert (call.folder, call.compose_variables, call.arguments) == (ROOT, [], "compose down")
    assert "cd" not in caller.sarai("down", "--dry-run", cwd=ROOT).stdout


def test_folder_of_the_project_is_told_to_programs(caller: Caller) -> None:
    told = json.loads(caller.sarai("down", "--dry-run", "--json", cwd=caller.foreign).stdout)
    assert (told["command"], told["folder"]) == (["docker", "compose", "down"], str(ROOT))
