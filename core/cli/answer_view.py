"""How an answer is shown: its progress, its text as it comes, rendered as Markdown on a terminal, and its figures."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING, Protocol

from core.cli.streams import Paint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from core.cli.common import Settings
    from core.loop.events import CallProgress
    from core.loop.result import CallFigures
    from skills import skills_pb2


class _View(Protocol):
    def write(self, text: str) -> None: ...

    def close(self) -> None: ...


@contextlib.contextmanager
def answer_view(*, markdown: bool) -> Iterator[Callable[[str], None]]:
    """Show an answer piece by piece, and end its last line.

    Args:
        markdown: Whether to render Markdown if standard output is a terminal that supports it.

    Yields:
        A function that takes the next piece.
    """
    paint = Paint(sys.stdout)
    view: _View = _Plain(paint)
    if markdown and paint.can_redraw:
        from core.cli.markdown import MarkdownStream  # rich takes a tenth of a second

        view = MarkdownStream(sys.stdout, color=paint.color)
    try:
        yield view.write
    finally:
        view.close()


class _Plain:
    def __init__(self, paint: Paint) -> None:
        self._paint = paint
        self._last = "\n"

    def write(self, text: str) -> None:
        self._paint.write(text)
        self._last = text or self._last

    def close(self) -> None:
        if not self._last.endswith("\n"):
            self._paint.line()


LEAST_WAIT_S = 0.5
"""Shortest expected wait that is shown, seconds."""
_CELLS = 20
_COLUMNS = 80  # of a terminal that does not report its width


class PromptBar:
    """Shows the progress of consecutive calls, on standard error if that is a terminal.

    Args:
        settings: Output settings; with --quiet nothing is shown.
        wanted: Whether to show anything at all.
    """

    def __init__(self, settings: Settings, *, wanted: bool = True) -> None:
        terminal = Paint(sys.stderr).terminal and os.environ.get("TERM") != "dumb"
        self.shown = wanted and terminal and not settings.quiet
        """Whether calls should report their progress."""
        self._there = False

    def over(self, chunks: Iterable[skills_pb2.GenChunk]) -> Iterator[skills_pb2.GenChunk]:
        """Yield the pieces of an answer, and show the progress before them."""
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
        """Show progress, in place of what was shown before."""
        if not self.shown or not (self._there or progress.expected_wait_s >= LEAST_WAIT_S):
            return
        width = os.get_terminal_size(sys.stderr.fileno()).columns or _COLUMNS
        sys.stderr.write(f"\r{line(progress)[: width - 1]}\x1b[K")
        sys.stderr.flush()
        self._there = True

    def clear(self) -> None:
        """Remove the line."""
        if self._there:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
        self._there = False


def line(progress: skills_pb2.Progress | CallProgress) -> str:
    """Return progress in words and a bar."""
    wait = f"about {max(1, round(progress.expected_wait_s))} s"
    if progress.queue_position:
        return f"  in the queue at place {progress.queue_position}, {wait}"
    if images := progress.images_to_encode:
        return f"  reading {'the image' if images == 1 else f'{images} images'}, {wait}"
    read, whole = progress.prompt_tokens_read, progress.prompt_tokens
    done = _CELLS * read // max(1, whole)
    bar = "█" * done + "░" * (_CELLS - done)
    return f"  reading the prompt {bar} {read:,} of {whole:,} tokens, {wait}"


def seconds(milliseconds: float) -> str:
    """Return a time in words: `340 ms`, `2.1 s`."""
    return f"{milliseconds:.0f} ms" if milliseconds < 1000 else f"{milliseconds / 1000:.1f} s"


# In place of the speed, which would not be the engine's.
_KEPT = {"hit": "a kept answer", "partial": "its beginning kept", "joined": "computed for another call too"}


def describe(figures: CallFigures) -> str:
    """Return one line about the cost of a call."""
    parts = [
        f"{figures.tokens} tokens",
        _KEPT.get(figures.kept) or f"{figures.tokens_per_second:.1f} tok/s",
        f"{seconds(figures.latency_ms)} ({seconds(figures.time_to_first_token_ms)} to the first token)",
        f"{figures.cached_tokens} of {figures.prompt_tokens} prompt tokens cached",
    ]
    if figures.image_tokens:
        parts.append(f"{figures.image_tokens} are images")
    if figures.queue_ms >= 1:
        parts.append(f"{seconds(figures.queue_ms)} in the queue")
    if figures.lookup_tokens:
        parts.append(f"lookup {figures.lookup_accepted} of {figures.lookup_tokens} right")
    if figures.finish_reason != "stop":
        parts.append(f"ended by {figures.finish_reason}")
    return ", ".join(parts)


_WHY_EMPTY = {
    "stop": "the model ended its turn at once",
    "stop_string": "it began with a stop string",
    "length": "the tokens that it may have spell nothing",
    "context_full": "the prompt fills the model's context",
    "time_budget": "there was none yet when its time was over",
}


def why_empty(figures: CallFigures) -> str:
    """Return in words why an answer has no text."""
    return f"the answer is empty: {_WHY_EMPTY.get(figures.finish_reason, 'the skill wrote nothing')}"


def where(origin: str, target: str) -> str:
    """Return in words where an answer was generated, to follow `by <model>`."""
    known = {
        "embedded": f"in a local process, embedded ({target})",
        "container": f"in the container on this host ({target})",
        "running": f"at the server that runs on this host ({target})",
        "address": f"at {target}",
    }
    return known.get(origin, f"at {target} ({origin})")
