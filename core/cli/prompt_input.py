"""The prompt: what is piped in, then what stands on the command line."""

from __future__ import annotations

import select
import sys
from typing import TYPE_CHECKING

import click

from core.cli.colors import is_terminal
from core.cli.settings import current_settings
from core.cli.texts import decoded

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_PIPED_BYTES = 1024 * 1024
"""The most that a prompt may be on the wire."""
_HINT_AFTER_S = 2.0


def read_prompt(words: Sequence[str]) -> str:
    """The prompt of a command.

    Args:
        words: the arguments; they are joined by spaces. A single `-` among them reads standard input, which is read
            anyway where it is no terminal.

    Raises:
        UsageError: there is none, or it is no text, or too long.
    """
    argument = " ".join(word for word in words if word != "-")
    piped = ""
    if "-" in words or not is_terminal(sys.stdin):
        piped = _read_piped()
    prompt = "\n\n".join(part for part in (piped.rstrip("\n"), argument) if part.strip())
    if not prompt:
        context = click.get_current_context()
        print(context.get_help(), file=sys.stderr)
        print(file=sys.stderr)
        raise click.UsageError("there is no prompt: give it as an argument, or pipe it in")
    return prompt


def _read_piped() -> str:
    _hint_if_it_takes_long()
    raw = sys.stdin.buffer.read(MAX_PIPED_BYTES + 1)
    if len(raw) > MAX_PIPED_BYTES:
        raise click.UsageError(f"standard input is longer than {MAX_PIPED_BYTES} bytes, the most that a prompt may be")
    return decoded(raw, "standard input")


def _hint_if_it_takes_long() -> None:
    """Says what is waited for: who left a pipe open by accident sees no reason otherwise."""
    try:
        ready, _, _ = select.select([sys.stdin], [], [], _HINT_AFTER_S)
    except (OSError, ValueError):  # not something that can be waited for
        return
    if not ready and not current_settings().quiet:
        print("waiting for the end of standard input (Ctrl-D, or run with </dev/null)", file=sys.stderr)
