"""`sarai chat`: a conversation on the terminal, or a turn a line from a pipe."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from core.cli.answer_options import AnswerOptions, answer_options
from core.cli.colors import Paint, is_terminal
from core.cli.exit_codes import ExitCode, exit_code_of
from core.cli.pool import open_pool, skill_options
from core.cli.prompt_bar import PromptBar
from core.cli.settings import Settings, common_options, print_json, start_command
from core.cli.types import Seconds

if TYPE_CHECKING:
    from core.cli.chat_session import ChatSession

_HELP = '''/set                 show the settings
/set NAME VALUE      set temperature, max_tokens, top_p, seed, system, … for the next answers
/set NAME default    take it back
/clear               forget the conversation
/save FILE           write the conversation to a file, as JSON
/help                this
/quit, Ctrl-D        end

A backslash at the end of a line goes on in the next one; """ begins and ends a turn of several lines.
Ctrl-C ends the answer that is being written, else the chat.'''

_EPILOG = """\b
Examples:
  sarai chat
  sarai chat --system "You answer in one sentence." --temperature 0
  printf 'My name is Ana.\\nWhat is my name?\\n' | sarai chat

\b
In the chat:
""" + "\n".join(f"  {line}" if line else "\n\b" for line in _HELP.splitlines())


@click.command(epilog=_EPILOG, short_help="Talk with a skill.")
@skill_options
@answer_options(temperature="0.7")
@click.option(
    "--timeout", type=Seconds(), envvar="SARAI_CALL_TIMEOUT_S", show_envvar=True,
    help="Give up on an answer after this time. Default: 120.",
)  # fmt: skip
@common_options
def chat(skill: str, target: str | None, timeout: float | None, **parameters: Any) -> int:
    """Talks with a skill: each line is a turn, and the conversation is remembered.

    Where standard input is no terminal, each of its lines is a turn, and the first failure ends the chat.
    """
    settings = start_command()
    template = AnswerOptions.take(parameters).request()
    bar = PromptBar(settings)
    template.progress = bar.shown

    from core.cli.chat_session import ChatSession

    with open_pool(skill, target) as pool:
        session = ChatSession(pool.get_skill_client(skill), template, timeout_s=timeout, watch=bar.over)
        return _Chat(session, settings).run()


class _Chat:
    """The talk between a person and a session."""

    def __init__(self, session: ChatSession, settings: Settings) -> None:
        self._session, self._settings = session, settings
        self._interactive = is_terminal(sys.stdin)
        self._out, self._err = Paint(sys.stdout), Paint(sys.stderr)

    def run(self) -> int:
        from core.cli.chat_input import piped_lines, read_turns, terminal_lines
        from core.config import PoolConfig
        from core.errors import SaraiError

        if self._interactive and not self._settings.quiet:
            self._err.line("Ctrl-D ends it, /help shows what else there is.", dim=True)
        history = PoolConfig.from_env().log_dir.parent / "chat_history"
        for turn in read_turns(terminal_lines(history) if self._interactive else piped_lines()):
            if turn.startswith("/"):
                if turn.split()[0] in ("/quit", "/exit", "/bye"):
                    break
                self._command(turn)
                continue
            try:
                self._answer(turn)
            except SaraiError as error:
                print(f"error: {error}", file=sys.stderr)
                if not self._interactive:
                    return exit_code_of(error)
        return ExitCode.OK

    def _answer(self, turn: str) -> None:
        with contextlib.closing(self._session.ask(turn)) as pieces:
            try:
                self._show(pieces)
            except KeyboardInterrupt:
                if not self._interactive:
                    raise
                self._out.line()
                self._err.line("(ended)", dim=True)

    def _show(self, pieces: Any) -> None:
        from core.cli.figures import describe, message_dict, why_empty
        from core.loop_result import CallFigures

        last = "\n"
        for piece in pieces:
            if self._settings.json:
                print_json({"event": "piece", "text": piece})
            else:
                self._out.write(piece)
            last = piece
        if not self._settings.json and not last.endswith("\n"):
            self._out.line()
        response = self._session.last
        if response is None:
            return
        if self._settings.json:
            print_json({"event": "result", **message_dict(response)})
        figures = CallFigures.of(response)
        if self._settings.stats:
            self._err.line(describe(figures), dim=True)
        if not response.text:
            self._err.line(why_empty(figures), dim=True)
        elif figures.finish_reason == "time_budget" and not self._settings.quiet:
            self._err.line(f"cut off after {figures.tokens} tokens: the time was over", dim=True)

    def _command(self, line: str) -> None:
        """Does what a line with a slash says. What is wrong with it is told, and the chat goes on."""
        from core.cli.chat_session import SettingError

        words = line.split(maxsplit=2)
        try:
            match words:
                case ["/set"]:
                    self._err.line("\n".join(f"{n} {v}" for n, v in self._session.settings().items()) or "all default")
                case ["/set", name, value]:
                    self._session.set(name, value)
                case ["/clear"]:
                    self._session.clear()
                case ["/save", *path] if path:
                    self._session.save(Path(line.removeprefix("/save").strip()).expanduser())
                case ["/help"]:
                    self._err.line(_HELP)
                case _:
                    self._err.line(f"not understood: {line.splitlines()[0]} (/help shows what there is)")
        except (SettingError, OSError) as error:
            self._err.line(f"error: {error}")
