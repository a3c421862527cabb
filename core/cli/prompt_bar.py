"""How far a call is while nothing of its answer has come: one line on the terminal, gone when the answer begins."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from core.cli.colors import Paint

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from core.cli.settings import Settings
    from core.loop.events import CallProgress
    from skills import skills_pb2

LEAST_WAIT_S = 0.5
"""A shorter wait is not worth a line."""
_CELLS = 20
_COLUMNS = 80  # of a terminal that does not say


class PromptBar:
    """Shows the progress of one call after the other, on standard error where that is a terminal.

    Args:
        settings: how to talk; with --quiet nothing is shown.
        wanted: whether to show anything at all.
    """

    def __init__(self, settings: Settings, *, wanted: bool = True) -> None:
        terminal = Paint(sys.stderr).terminal and os.environ.get("TERM") != "dumb"
        self.shown = wanted and terminal and not settings.quiet
        """Whether calls are to be asked for their progress."""
        self._there = False

    def over(self, chunks: Iterable[skills_pb2.GenChunk]) -> Iterator[skills_pb2.GenChunk]:
        """The pieces of an answer, without the progress before them, which is shown."""
        try:
            for chunk in chunks:
                if chunk.HasField("progress"):
                    self.show(chunk.progress)
                else:
                    self.clear()
                    yield chunk
        finally:
            self.clear()

    def show(self, progress: skills_pb2.Progress | CallProgress) -> None:
        """Shows how far it is, in the place of what was shown before."""
        if not self.shown or not (self._there or progress.expected_wait_s >= LEAST_WAIT_S):
            return
        width = os.get_terminal_size(sys.stderr.fileno()).columns or _COLUMNS
        sys.stderr.write(f"\r{line(progress)[: width - 1]}\x1b[K")
        sys.stderr.flush()
        self._there = True

    def clear(self) -> None:
        """Takes the line away."""
        if self._there:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
        self._there = False


def line(progress: skills_pb2.Progress | CallProgress) -> str:
    """How far it is, in words and a bar."""
    wait = f"about {max(1, round(progress.expected_wait_s))} s"
    if progress.queue_position:
        return f"  in the queue at place {progress.queue_position}, {wait}"
    read, whole = progress.prompt_tokens_read, progress.prompt_tokens
    done = _CELLS * read // max(1, whole)
    bar = "█" * done + "░" * (_CELLS - done)
    return f"  reading the prompt {bar} {read:,} of {whole:,} tokens, {wait}"
