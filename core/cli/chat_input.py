"""The input of a chat: turns of one or more lines, and commands, whose first word is a slash and letters."""

from __future__ import annotations

import contextlib
import io
import itertools
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TextIO

import click

from core.cli.chat_files import complete_files
from core.cli.common import ExitCode
from core.config import not_utf8

if TYPE_CHECKING:
    from core.cli.chat_session import ChatSession
    from core.cli.streams import Paint


QUOTES = '"""'

ReadLine = Callable[[str], str]
"""Shows the given prompt, and returns the next line without its end. Raises EOFError at the end."""


class Turn(NamedTuple):
    """One turn as it was typed."""

    text: str
    quoted: bool = False
    """Whether it was between triple quotes."""


def read_turns(read_line: ReadLine) -> Iterator[Turn]:
    """Yield the turns that are not empty, up to the end of the input."""
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
    with contextlib.suppress(EOFError):  # then the lines so far are the turn
        while not line.rstrip().endswith(QUOTES):
            lines.append(line)
            line = read_line(". ")
        lines.append(line.rstrip().removesuffix(QUOTES))
    return "\n".join(lines).strip("\n")


def terminal_lines(history: Path) -> ReadLine:
    """Return a function that reads lines from the terminal, with editing and a lasting history."""
    with contextlib.suppress(ImportError):  # without readline, there is still input()
        import atexit
        import readline

        with contextlib.suppress(OSError):
            readline.read_history_file(history)
        readline.set_history_length(1000)
        atexit.register(_keep_history, history)
        complete_files()

    _let_surrogates_through(sys.stdin)

    def read_line(prompt: str) -> str:
        while why := not_utf8(line := _typed(prompt)):
            print(f"error: this line is {why}: type it again", file=sys.stderr)
        return line

    return read_line


def _typed(prompt: str) -> str:
    if sys.stdout.isatty():
        return input(prompt)
    print(prompt, end="", file=sys.stderr, flush=True)  # standard output is for answers alone
    return input()


def _let_surrogates_through(stdin: TextIO, encoding: str | None = None) -> None:
    """Let invalid text through, so that it is reported here, with its place, instead of failing inside Python."""
    if isinstance(stdin, io.TextIOWrapper):
        stdin.reconfigure(encoding=encoding, errors="surrogateescape")


def _keep_history(path: Path) -> None:
    import readline

    with contextlib.suppress(OSError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.touch(mode=0o600)
        readline.write_history_file(path)


def piped_lines() -> ReadLine:
    """Return a function that reads lines from a pipe, without prompts; invalid text is a `click.UsageError`."""
    _let_surrogates_through(sys.stdin, "utf-8-sig")
    numbers = itertools.count(1)

    def read_line(_: str) -> str:
        line, number = sys.stdin.readline(), next(numbers)
        if not line:
            raise EOFError
        if why := not_utf8(line):
            raise click.UsageError(f"line {number} of standard input is {why}")
        return line.removesuffix("\n").removesuffix("\r")  # files from Windows have both

    return read_line


HELP = '''/set                 show the settings in force
/set NAME            show one of them
/set NAME VALUE      set temperature, max_tokens, top_p, seed, stop, system, … for the next answers
/set NAME default    take it back
/image FILE          show the model an image with the next turn; several of them show it several
/clear               forget the conversation
/save FILE           write the conversation to a file, as JSON
/help                this
/quit, Ctrl-D        end

A turn whose first word is a slash and letters is a command, and an unknown one is an error. A blank before the slash
makes it text, as """ does; /etc/hosts, /* and // are text anyway.
A backslash at the end of a line continues it on the next one; """ begins and ends a turn of several lines.
Tab completes the name of a FILE. Ctrl-C ends the answer that is being written, else the chat.'''
_COMMAND = re.compile(r"/[A-Za-z]+(?=\s|$)")


class CommandError(Exception):
    """A command that failed; `code` is the exit code of a chat that is not interactive."""

    def __init__(self, message: str, code: ExitCode) -> None:
        super().__init__(message)
        self.code = code


def is_command(turn: Turn) -> bool:
    """Return whether a turn is a command for the chat."""
    return not turn.quoted and _COMMAND.match(turn.text) is not None


def run_command(line: str, session: ChatSession, err: Paint) -> bool:
    """Execute a command, and return whether the chat continues.

    Raises:
        CommandError: It is unknown, or failed.
    """
    from core.cli.chat_session import SettingError

    try:
        match line.split(maxsplit=2):
            case ["/quit" | "/exit" | "/bye"]:
                return False
            case ["/set"]:
                err.line("\n".join(f"{name:<18} {value}" for name, value in session.in_force().items()))
            case ["/set", name]:
                err.line(session.in_force(name)[name])
            case ["/set", name, value]:
                session.set(name, value)
            case ["/clear"]:
                session.clear()
            case ["/image" | "/save" as command, *path] if path:
                act = session.show if command == "/image" else session.save
                act(Path(line.removeprefix(command).strip()).expanduser())
            case ["/help"]:
                err.line(HELP)
            case _:
                raise CommandError(
                    f"{line.splitlines()[0]!r} is no command (/help shows them); a blank before it makes it text",
                    ExitCode.USAGE,
                )
    except SettingError as error:
        raise CommandError(str(error), ExitCode.USAGE) from error
    except OSError as error:
        raise CommandError(str(error), ExitCode.FAILED) from error
    return True
