"""The commands that errors recommend exist, and help."""

from __future__ import annotations

import re
import shlex

import click
import grpc
import pytest

from core.cli.app import cli
from core.errors import ERROR_OF_CODE, CallError, UnavailableError, UnknownSkillError

COMMAND = re.compile(r"`(sarai [^`]+)`")


def error_of(kind: type[CallError], **about: str) -> CallError:
    return kind(code=grpc.StatusCode.UNAVAILABLE, details="d", skill="draft", target="t", **about)  # type: ignore[arg-type]


def check(text: str) -> list[str]:
    """Return the commands that a text names; fail if one of them does not parse."""
    named = COMMAND.findall(text)
    for line in named:
        name, *arguments = shlex.split(line)[1:]
        with click.Context(cli.commands[name]) as context:
            cli.commands[name].parse_args(context, arguments)
    return named


@pytest.mark.parametrize("kind", sorted(set(ERROR_OF_CODE.values()), key=str))
def test_commands_that_an_error_names_can_be_typed(kind: type[CallError]) -> None:
    text = str(error_of(kind))
    check(text)
    assert "{" not in text


def test_skill_that_is_not_there_is_to_be_started() -> None:
    assert check(str(error_of(UnavailableError)))[:2] == ["sarai serve draft", "sarai up draft"]


def test_server_that_has_answered_is_to_be_asked_not_started() -> None:
    assert check(str(error_of(UnavailableError, reason="LOADING"))) == ["sarai health draft"]


def test_plugin_that_failed_is_explained_by_a_command() -> None:
    assert check(str(UnknownSkillError("x", ["draft"], left_out=["broken"]))) == ["sarai skills"]
