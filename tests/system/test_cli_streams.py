"""The command line with standard streams that are closed, full, or end early: real shells close them."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.stub_plugin import free_port
from tests.stub_skill import Reply, StubSkill
from tests.system.test_cli import ROOT, environ

__all__ = ["environ"]
SARAI = f"exec '{sys.executable}' -m sarai"
NOBODY = f"127.0.0.1:{free_port()}"


def shell(environ: dict[str, str], line: str, target: str) -> subprocess.CompletedProcess[str]:
    """Run a line of bash; capture the streams that it leaves open."""
    return subprocess.run(
        ["bash", "-c", f"{SARAI} {line}"], cwd=ROOT, env=environ | {"SARAI_DRAFT_TARGET": target},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("command", ["draft x", "loop --max-iterations 1 x", "chat <<< x", "health -q", "skills"])
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_command_works_with_streams_closed(environ: dict[str, str], command: str, closed: str) -> None:
    if "chat" in command:
        closed = closed.removeprefix("<&-")
    with StubSkill("an answer") as skill:
        run = shell(environ, f"{command} {closed}", skill.target)
    assert run.returncode == 0
    assert "Error" not in run.stderr
    if ">&-" not in closed.replace("2>&-", "") and command.startswith(("draft", "loop", "chat")):
        assert run.stdout == "an answer\n"


@pytest.mark.parametrize("command", ["draft x", "loop x", "chat <<< x", "health --frob", "draft --stats x"])
def test_errors_never_land_where_the_answer_belongs(environ: dict[str, str], command: str) -> None:
    run = shell(environ, f"{command} 2>&-", NOBODY)
    assert run.returncode in (2, 3)
    assert run.stdout == ""


def test_closed_standard_input_holds_no_prompt(environ: dict[str, str]) -> None:
    run = shell(environ, "draft <&-", NOBODY)
    assert run.returncode == 2
    assert "there is no prompt" in run.stderr
    assert shell(environ, "chat <&-", NOBODY).returncode == 0


@pytest.mark.parametrize(
    "command",
    ["draft x", "draft --json x", "loop x", "chat <<< x", "health", "skills", "draft --help", "completion bash"],
)
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_answer_that_cannot_be_written_is_told_in_one_line_and_1(
    environ: dict[str, str], command: str, unbuffered: str
) -> None:
    environ["PYTHONUNBUFFERED"] = unbuffered
    with StubSkill("an answer") as skill:
        run = shell(environ, f"{command} > /dev/full", skill.target)
    assert (run.returncode, run.stderr) == (1, "error: cannot write to standard output: No space left on device\n")


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_reader_who_has_had_enough_is_told_nothing(environ: dict[str, str], unbuffered: str) -> None:
    environ["PYTHONUNBUFFERED"] = unbuffered
    with StubSkill(Reply(text="one two", delay_s=0.5)) as skill:
        line = f"{SARAI} draft x --target {skill.target} | true; echo code ${{PIPESTATUS[0]}} >&2"
        run = subprocess.run(
            ["bash", "-c", line], cwd=ROOT, env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=60, check=True,
        )  # fmt: skip
    assert run.stderr == "code 1\n"


def test_server_gets_streams_that_are_open(environ: dict[str, str]) -> None:
    run = shell(environ, "serve -- --help <&- 2>&-", NOBODY)
    assert run.returncode == 0
    assert "--listen" in run.stdout
