"""When answers are rendered as Markdown, and when not."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import pytest

from tests.stub_skill import Reply, StubSkill
from tests.system.test_cli import ROOT, environ, on_terminal, sarai
from tests.terminal import Screen

__all__ = ["environ"]
ANSWER = "A **strong** word.\n\n- one\n- two\n"
RENDERED = "A strong word.\n\n • one\n • two"
SIZE = {"COLUMNS": "60", "LINES": "10"}


def shown(environ: dict[str, str], *arguments: str, **streams: Any) -> str:
    """Return the terminal's final screen."""
    with StubSkill(ANSWER) as skill:
        seen, code = on_terminal(environ | SIZE, *arguments, target=skill.target, **streams)
    assert code == 0
    screen = Screen(60, 10)
    screen.feed(seen)
    return screen.text


def test_answer_on_a_terminal_is_rendered(environ: dict[str, str]) -> None:
    assert shown(environ, "draft", "x") == RENDERED


@pytest.mark.parametrize("arguments", [("--no-markdown",), ("--raw",), ("--candidates", "2")])
def test_option_shows_it_as_it_is(environ: dict[str, str], arguments: tuple[str, ...]) -> None:
    assert "A **strong** word.\n\n- one\n- two" in shown(environ, "draft", *arguments, "x")


def test_raw_prompt_and_no_markdown_are_two_things(environ: dict[str, str]) -> None:
    for option, raw in (("--raw", True), ("--no-markdown", False)):
        with StubSkill(ANSWER) as skill:
            assert sarai(environ, "draft", option, "x", target=skill.target).stdout == ANSWER
            assert [request.raw for request in skill.requests] == [raw]


def test_terminal_that_cannot_redraw_gets_it_as_it_is(environ: dict[str, str]) -> None:
    assert shown(environ | {"TERM": "dumb"}, "draft", "x") == ANSWER.rstrip()


def test_pipe_gets_it_as_it_is_whatever_is_forced(environ: dict[str, str]) -> None:
    with StubSkill(ANSWER) as skill:
        for forced in ({}, {"FORCE_COLOR": "1", "TTY_COMPATIBLE": "1", "TTY_INTERACTIVE": "1"}):
            assert sarai(environ | forced, "draft", "x", target=skill.target).stdout == ANSWER
            assert sarai(environ | forced, "chat", piped="x\n", target=skill.target).stdout == ANSWER


def test_no_color_is_rendered_without_colours(environ: dict[str, str]) -> None:
    with StubSkill("`code` and\n\n- **this**\n") as skill:
        plain, _ = on_terminal(environ | SIZE | {"NO_COLOR": "1"}, "draft", "x", target=skill.target)
        colored, _ = on_terminal(environ | SIZE, "draft", "x", target=skill.target)
    color = re.compile(r"\x1b\[(?:[0-9]+;)*(?:3[0-9]|4[0-9]|9[0-7])[;m]")
    assert color.search(colored)
    assert not color.search(plain)
    assert "**" not in plain


@pytest.mark.parametrize(("option", "expected"), [("--no-markdown", ANSWER), ("--raw", ANSWER), ("-q", RENDERED)])
def test_chat_renders_each_answer(environ: dict[str, str], option: str, expected: str) -> None:
    with subprocess.Popen(["printf", r"x\ny\n"], stdout=subprocess.PIPE) as typed:
        text = shown(environ, "chat", option, stdin=typed.stdout)
    assert text == f"{expected.rstrip()}\n{expected.rstrip()}"


def test_what_has_come_of_an_answer_that_fails_stays_on_the_screen(environ: dict[str, str]) -> None:
    with StubSkill([Reply(text="A **strong** word and more", break_after=3)]) as skill:
        own = environ | SIZE | {"SARAI_RECOVERY_S": "0"}
        seen, code = on_terminal(own, "draft", "--timeout", "2", "x", target=skill.target)
    screen = Screen(60, 10)
    screen.feed(seen)
    assert code != 0
    assert screen.text.startswith("A strong word\nerror: ")


def test_cursor_is_back_at_the_end(environ: dict[str, str]) -> None:
    with StubSkill(ANSWER) as skill:
        seen, _ = on_terminal(environ | SIZE, "draft", "x", target=skill.target)
    assert seen.rfind("\x1b[?25h") > seen.rfind("\x1b[?25l") >= 0


def test_rich_is_imported_only_where_it_is_used(environ: dict[str, str]) -> None:
    probe = "import sys; from core.cli import main; main(sys.argv[1:]); print('rich' in sys.modules)"
    with StubSkill("an answer") as skill:
        run = subprocess.run(
            [sys.executable, "-c", probe, "draft", "--target", skill.target, "x"], env=environ, cwd=ROOT,
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True,
        )  # fmt: skip
    assert run.stdout == "an answer\nFalse\n"
