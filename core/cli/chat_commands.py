"""The commands of a chat: lines whose first word is a slash and letters."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from core.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from core.cli.chat_input import Turn
    from core.cli.chat_session import ChatSession
    from core.cli.colors import Paint

HELP = '''/set                 show the settings in force
/set NAME            show one of them
/set NAME VALUE      set temperature, max_tokens, top_p, seed, stop, system, … for the next answers
/set NAME default    take it back
/clear               forget the conversation
/save FILE           write the conversation to a file, as JSON
/help                this
/quit, Ctrl-D        end

A turn whose first word is a slash and letters is a command, and an unknown one is an error. A blank before the slash
makes it text, as """ does; /etc/hosts, /* and // are text anyway.
A backslash at the end of a line goes on in the next one; """ begins and ends a turn of several lines.
Ctrl-C ends the answer that is being written, else the chat.'''
_COMMAND = re.compile(r"/[A-Za-z]+(?=\s|$)")


class CommandError(Exception):
    """A command that cannot be done; `code` is what a chat ends with where nobody can type another one."""

    def __init__(self, message: str, code: ExitCode) -> None:
        super().__init__(message)
        self.code = code


def is_command(turn: Turn) -> bool:
    """Whether a turn is for the chat, not for the skill."""
    return not turn.quoted and _COMMAND.match(turn.text) is not None


def run_command(line: str, session: ChatSession, err: Paint) -> bool:
    """Does what a command says. Returns whether the chat goes on.

    Raises:
        CommandError: it is unknown, or cannot be done.
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
            case ["/save", *path] if path:
                session.save(Path(line.removeprefix("/save").strip()).expanduser())
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
