"""`sarai chat`: a conversation on the terminal, or from a pipe with one turn per line."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Any

import click

from core.cli.answer_view import PromptBar, answer_view, describe, why_empty
from core.cli.asking import AnswerOptions, answer_options
from core.cli.chat_input import HELP
from core.cli.common import ExitCode, Settings, common_options, exit_code_of, message_dict, print_json, start_command
from core.cli.images import image_tokens_option
from core.cli.parameters import Seconds
from core.cli.pool import open_pool, skill_options
from core.cli.streams import Paint, is_terminal

if TYPE_CHECKING:
    from core.cli.chat_session import ChatSession

_EPILOG = """\b
Examples:
  sarai chat
  sarai chat --system "You answer in one sentence." --temperature 0
  printf 'My name is Ana.\\nWhat is my name?\\n' | sarai chat

\b
In the chat:
""" + "\n".join(f"  {line}" if line else "\n\b" for line in HELP.splitlines())


@click.command(epilog=_EPILOG, short_help="Talk with a skill.")
@skill_options
@image_tokens_option
@answer_options(temperature="0.7")
@click.option(
    "--timeout", type=Seconds(), envvar="SARAI_CALL_TIMEOUT_S", show_envvar=True,
    help="Give up on an answer after this time. Default: 120.",
)  # fmt: skip
@click.option("--no-markdown", "--raw", is_flag=True, help="Show answers as they come, also on a terminal.")
@common_options
def chat(
    *,
    skill: str,
    target: str | None,
    image_tokens: int | None,
    timeout: float | None,
    no_markdown: bool,
    **parameters: Any,
) -> int:
    """Talk with a skill: each line is a turn, and the conversation is remembered.

    If standard input is not a terminal, each of its lines is a turn, and the first failure ends the chat; an invalid
    command ends it with 2.
    """
    settings = start_command()
    template = AnswerOptions.take(parameters).request()
    # JSON, and other answers with a form of their own, are shown as they are.
    markdown = not (no_markdown or template.WhichOneof("constraint"))
    bar = PromptBar(settings)
    template.progress = bar.shown

    from core.cli.chat_session import ChatSession

    with open_pool(skill, target) as pool:
        client = pool.get_skill_client(skill)
        session = ChatSession(client, template, image_tokens=image_tokens, timeout_s=timeout, watch=bar.over)
        return _Chat(session, settings, markdown=markdown).run()


class _Chat:
    """The dialogue between a user and a session."""

    def __init__(self, session: ChatSession, settings: Settings, *, markdown: bool) -> None:
        self._session, self._settings, self._markdown = session, settings, markdown
        self._interactive = is_terminal(sys.stdin)
        self._err = Paint(sys.stderr)

    def run(self) -> int:
        from core.cli.chat_input import CommandError, is_command, piped_lines, read_turns, run_command, terminal_lines
        from core.config import PoolConfig
        from core.errors import SaraiError

        if self._interactive and not self._settings.quiet:
            self._err.line("Ctrl-D ends it, /help shows what else there is.", dim=True)
        history = PoolConfig.from_env().log_dir.parent / "chat_history"
        for turn in read_turns(terminal_lines(history) if self._interactive else piped_lines()):
            try:
                if not is_command(turn):
                    self._answer(turn.text)
                elif not run_command(turn.text, self._session, self._err):
                    break
            except (SaraiError, CommandError) as error:
                print(f"error: {error}", file=sys.stderr)
                if not self._interactive:
                    return error.code if isinstance(error, CommandError) else exit_code_of(error)
        return ExitCode.OK

    def _answer(self, turn: str) -> None:
        with contextlib.closing(self._session.ask(turn)) as pieces:
            try:
                self._show(pieces)
            except KeyboardInterrupt:
                if not self._interactive:
                    raise
                self._err.line("(ended)", dim=True)

    def _show(self, pieces: Any) -> None:
        from core.loop.result import CallFigures

        if self._settings.json:
            for piece in pieces:
                print_json({"event": "piece", "text": piece})
        else:
            with answer_view(markdown=self._markdown) as write:
                for piece in pieces:
                    write(piece)
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
