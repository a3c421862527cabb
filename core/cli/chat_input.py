"""What is typed in a chat: one line a turn, or several with a backslash at the end or between triple quotes."""

from __future__ import annotations

import contextlib
import io
import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, TextIO

import click

from core.texts import not_utf8

QUOTES = '"""'

ReadLine = Callable[[str], str]
"""Takes the prompt to show, gives the next line without its end. Raises EOFError when there is none."""


class Turn(NamedTuple):
    """What was typed as one turn."""

    text: str
    quoted: bool = False
    """It stood between triple quotes."""


def read_turns(read_line: ReadLine) -> Iterator[Turn]:
    """The turns, without those that are empty, until there are no more lines."""
    with contextlib.suppress(EOFError):
        while True:
            turn = _read_turn(read_line)
            if turn.text.strip():
                yield turn


def _read_turn(read_line: ReadLine) -> Turn:
    line = read_line("> ")
    if line.lstrip().startswith(QUOTES):
        return Turn(_read_quoted(read_line, line.lstrip().removeprefix(QUOTES)), quoted=True)
    lines = []
    while line.endswith("\\"):
        lines.append(line[:-1])
        try:
            line = read_line(". ")
        except EOFError:
            line = ""
    return Turn("\n".join([*lines, line]))


def _read_quoted(read_line: ReadLine, line: str) -> str:
    lines = []
    with contextlib.suppress(EOFError):  # then what there is, is the turn
        while not line.rstrip().endswith(QUOTES):
            lines.append(line)
            line = read_line(". ")
        lines.append(line.rstrip().removesuffix(QUOTES))
    return "\n".join(lines).strip("\n")


def terminal_lines(history: Path) -> ReadLine:
    """Reads lines from the terminal, with editing and a history that stays."""
    with contextlib.suppress(ImportError):  # a Python without readline still has input()
        import atexit
        import readline

        with contextlib.suppress(OSError):
            readline.read_history_file(history)
        readline.set_history_length(1000)
        atexit.register(_keep_history, history)

    _let_surrogates_through(sys.stdin)

    def read_line(prompt: str) -> str:
        while why := not_utf8(line := _typed(prompt)):
            print(f"error: this line is {why}: type it again", file=sys.stderr)
        return line

    return read_line


def _typed(prompt: str) -> str:
    if sys.stdout.isatty():
        return input(prompt)
    print(prompt, end="", file=sys.stderr, flush=True)  # standard output holds answers alone
    return input()


def _let_surrogates_through(stdin: TextIO, encoding: str | None = None) -> None:
    """What is no valid text is told by us, with its place, not by Python in the middle of reading."""
    if isinstance(stdin, io.TextIOWrapper):
        stdin.reconfigure(encoding=encoding, errors="surrogateescape")


def _keep_history(path: Path) -> None:
    import readline

    with contextlib.suppress(OSError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.touch(mode=0o600)
        readline.write_history_file(path)


def piped_lines() -> ReadLine:
    """Reads lines from standard input that is no terminal; shows no prompt. A line may raise `click.UsageError`."""
    _let_surrogates_through(sys.stdin, "utf-8-sig")
    numbers = itertools.count(1)

    def read_line(_: str) -> str:
        line, number = sys.stdin.readline(), next(numbers)
        if not line:
            raise EOFError
        if why := not_utf8(line):
            raise click.UsageError(f"line {number} of standard input is {why}")
        return line.removesuffix("\n").removesuffix("\r")  # a file from Windows has both

    return read_line
