"""What the command line shows before an answer begins, and when the answer is empty or incomplete."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from skills import skills_pb2
from tests.stub_skill import Reply, StubSkill
from tests.system.test_cli import environ, on_terminal, sarai  # noqa: F401  # a fixture

READING = Reply(text="the answer", delay_s=1.5, progress=3, logprob=0.0)
EMPTY = Reply(text="")
LATE = Reply(text="one two three four", chunk_delay_s=0.6, logprob=0.0)
COMMANDS = {
    "draft": ["draft", "x"],
    "draft, JSON": ["draft", "--json", "x"],
    "chat": ["chat"],
    "loop": ["loop", "x"],
}
commands = pytest.mark.parametrize("command", COMMANDS.values(), ids=list(COMMANDS))


def line_for(tmp_path: Path) -> Path:
    """Return a file with one line, as standard input for the chat."""
    path = tmp_path / "input"
    path.write_text("x\n")
    return path


@commands
def test_bar_is_shown_on_a_terminal_and_gone_when_the_answer_begins(
    environ: dict[str, str], tmp_path: Path, command: list[str]  # noqa: F811
) -> None:  # fmt: skip
    with StubSkill(READING) as skill, line_for(tmp_path).open() as typed:
        seen, code = on_terminal(environ | {"NO_COLOR": "1"}, *command, target=skill.target, stdin=typed)
        assert skill.requests[0].progress
    assert code == 0
    for told in ("0 of 3 tokens, about 2 s", "1 of 3 tokens", "2 of 3 tokens"):
        assert f"\r  reading the prompt {'█' * (20 * int(told[0]) // 3)}" in seen
        assert told in seen
    last_bar, cleared, answer = seen.index("2 of 3 tokens"), seen.rindex("\r\x1b[K"), seen.index("the answer")
    assert last_bar < cleared < answer


@commands
@pytest.mark.parametrize("way", ["a pipe", "quiet", "dumb"])
def test_no_bar_where_nobody_looks_or_wants_it(
    environ: dict[str, str], tmp_path: Path, command: list[str], way: str  # noqa: F811
) -> None:  # fmt: skip
    quick = Reply(text="the answer", delay_s=0.1, progress=3, logprob=0.0)
    with StubSkill(quick) as skill, line_for(tmp_path).open() as typed:
        if way == "a pipe":
            seen = sarai(environ, *command, piped="x\n" if command == ["chat"] else None, target=skill.target).stderr
        else:
            extra = {"TERM": "dumb"} if way == "dumb" else {}
            options = ["--quiet"] if way == "quiet" else []
            seen, _ = on_terminal(environ | extra, *command, *options, target=skill.target, stdin=typed)
        assert not any(request.progress for request in skill.requests)
    assert "reading" not in seen


def test_quiet_progress_of_the_loop_is_no_bar_either(environ: dict[str, str]) -> None:  # noqa: F811
    with StubSkill(READING) as skill:
        seen, _ = on_terminal(environ, "loop", "--progress", "quiet", "x", target=skill.target)
    assert seen == "the answer\n"


def test_bar_stays_out_of_standard_output(environ: dict[str, str], tmp_path: Path) -> None:  # noqa: F811
    out = tmp_path / "out"
    with StubSkill(READING) as skill, out.open("w") as file:
        seen, _ = on_terminal(environ, "draft", "--json", "x", target=skill.target, stdout=file)
    assert "reading the prompt" in seen
    assert [json.loads(line)["event"] for line in out.read_text().splitlines()] == ["piece", "piece", "result"]


@commands
def test_empty_answer_is_said(environ: dict[str, str], command: list[str]) -> None:  # noqa: F811
    with StubSkill(EMPTY) as skill:
        run = sarai(environ, *command, piped="x\n" if command == ["chat"] else None, target=skill.target)
    assert "the answer is empty: the model ended its turn at once" in run.stderr
    assert len(run.stderr.splitlines()) == 1
    assert run.returncode == (1 if "loop" in command else 0)


@commands
def test_answer_that_the_deadline_cuts_off_is_given_and_said_to_be_cut_off(
    environ: dict[str, str], command: list[str]  # noqa: F811
) -> None:  # fmt: skip
    with StubSkill(LATE) as skill:
        piped = "x\n" if command == ["chat"] else None
        run = sarai(environ, *command, "--timeout", "1", piped=piped, target=skill.target)
    assert run.returncode == 0
    assert "one two" in run.stdout
    assert "cut off after 2 tokens: the time was over" in run.stderr


def test_time_that_is_over_before_the_answer_begins_is_an_error(environ: dict[str, str]) -> None:  # noqa: F811
    over = Reply(text="", finish_reason=skills_pb2.FINISH_REASON_TIME_BUDGET)
    with StubSkill(over) as skill:
        run = sarai(environ, "draft", "--time-budget", "1", "x", target=skill.target)
    assert run.returncode == 1
    assert run.stderr == "error: the answer is empty: there was none yet when its time was over\n"
