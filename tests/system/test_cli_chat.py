"""What is typed in a chat: text arrives, commands are executed or refused, and nothing is lost silently."""

from __future__ import annotations

import os
import pty
import re
import subprocess

import pytest

from skills.skill_draft import requests
from tests.stub_skill import StubSkill
from tests.system.test_cli import ROOT, SARAI, environ, expect, sarai

__all__ = ["environ"]


def asked(environ: dict[str, str], typed: str) -> tuple[list[str], subprocess.CompletedProcess[str]]:
    """Return the turns that reach a skill when this is piped into a chat, and the finished command."""
    with StubSkill(lambda _: "fine") as skill:
        run = sarai(environ, "chat", piped=typed, target=skill.target)
        return [request.messages[-1].content for request in skill.requests], run


@pytest.mark.parametrize(
    "turn",
    [
        "/etc/hosts is what?",
        "// a comment",
        "//comment",
        "/* a comment */",
        "/",
        "/ x",
        "/2 is half",
        " /set",
        "/usr/bin",
    ],
)
def test_turn_that_begins_with_a_slash_is_said(environ: dict[str, str], turn: str) -> None:
    turns, run = asked(environ, f"{turn}\nHi\n")
    assert (turns, run.returncode, run.stdout) == ([turn, "Hi"], 0, "fine\nfine\n")


def test_quotes_make_any_command_text(environ: dict[str, str]) -> None:
    turns, run = asked(environ, '"""/quit"""\n"""/tmp is\nfull"""\n')
    assert (turns, run.returncode) == (["/quit", "/tmp is\nfull"], 0)


@pytest.mark.parametrize("line", ["/tmp is full", "/frob", "/quit smoking", "/clear now", "/save", "/SET"])
def test_turn_that_is_lost_is_told_with_the_way_to_say_it_and_2(environ: dict[str, str], line: str) -> None:
    turns, run = asked(environ, f"Hi\n{line}\nno\n")
    assert (turns, run.returncode) == (["Hi"], 2)
    assert run.stderr == f"error: {line!r} is no command (/help shows them); a blank before it makes it text\n"


@pytest.mark.parametrize(
    ("line", "said", "code"),
    [
        ("/set heat 1", "there is no setting 'heat'", 2),
        ("/set heat", "there is no setting 'heat'", 2),
        ("/set temperature hot", "must be a number", 2),
        ("/set seed -1", "must be a whole number", 2),
        (r"/set stop \theta\alpha", r"a backslash is written \\", 2),
        ("/save /nowhere/x", "No such file", 1),
    ],
)
def test_command_that_cannot_be_done_ends_a_piped_chat(
    environ: dict[str, str], line: str, said: str, code: int
) -> None:
    turns, run = asked(environ, f"{line}\nno\n")
    assert (turns, run.returncode) == ([], code)
    assert said in run.stderr


@pytest.mark.parametrize(
    ("line", "said"),
    [(b"/frob\n", "is no command"), (b"/set heat 1\n", "no setting"), (b"caf\xe9\n", "type it again")],
)
def test_what_is_wrong_on_a_terminal_is_told_and_the_chat_goes_on(
    environ: dict[str, str], line: bytes, said: str
) -> None:
    ours, theirs = pty.openpty()
    with StubSkill("fine") as skill:
        command = [*SARAI, "chat", "--target", skill.target]
        with subprocess.Popen(
            command, env=environ, cwd=ROOT, stdin=theirs, stdout=subprocess.PIPE, stderr=theirs
        ) as chat:
            os.close(theirs)
            for typed, answer in ((line, said), (b"Hi\n", "Hi"), (b"/quit\n", "/quit")):
                expect(ours, "> ")
                os.write(ours, typed)
                expect(ours, answer)
            assert chat.wait(10) == 0
            assert chat.stdout is not None
            assert chat.stdout.read() == b"fine\n"
        assert [request.messages[-1].content for request in skill.requests] == ["Hi"]
    os.close(ours)


def test_line_that_is_no_utf_8_is_2_and_named(environ: dict[str, str]) -> None:
    with StubSkill(lambda _: "fine") as skill:
        run = subprocess.run(
            [*SARAI, "chat"], env=environ | {"SARAI_DRAFT_TARGET": skill.target}, cwd=ROOT, input=b"ok\ncaf\xe9\nno\n",
            capture_output=True, timeout=60, check=False,
        )  # fmt: skip
        assert [request.messages[-1].content for request in skill.requests] == ["ok"]
    assert run.returncode == 2
    assert rb"line 2 of standard input is not valid UTF-8 (byte 3, in 'caf\udce9\n')" in run.stderr


def test_byte_order_mark_and_windows_line_ends_are_no_text(environ: dict[str, str]) -> None:
    turns, _ = asked(environ, "\ufeffñ\r\nb\r\n")
    assert turns == ["ñ", "b"]


def test_set_shows_the_values_in_force(environ: dict[str, str]) -> None:
    typed = "/set\n/set temperature 0.1\n/set stop \\\\theta\\n\n/set\n/set top_k\n/set temperature default\n/set\nHi\n"
    with StubSkill("fine") as skill:
        run = sarai(environ, "chat", "--max-tokens", "9", "--system", "Be\nbrief.", piped=typed, target=skill.target)
        (request,) = skill.requests
    assert list(request.stop) == ["\\theta\n"]
    assert not request.HasField("temperature")
    lines = run.stderr.splitlines()
    first, second, third = lines[:12], lines[12:24], lines[25:]
    shown = [dict(re.split(r"\s+", line, maxsplit=1) for line in part) for part in (first, second, third)]
    assert [each["temperature"] for each in shown] == ["0.7", "0.1 (default 0.7)", "0.7"]
    assert shown[0]["max_tokens"] == "9 (default 256)"
    assert shown[0]["system"] == r'"Be\nbrief." (default none)'
    assert shown[1]["stop"] == r'"\\theta\n" (default none)'
    assert lines[24] == "40"


def test_defaults_that_are_shown_are_those_of_the_skill() -> None:
    from core.cli.chat_session import DEFAULTS

    ranges = {name: limits.default for name, limits in requests._RANGES.items() if name != "num_candidates"}
    assert {name: float(DEFAULTS[name]) for name in ranges} == ranges
    assert DEFAULTS["max_tokens"] == str(requests.DEFAULT_MAX_TOKENS)
