"""How an answer looks on standard output: as it comes, or as Markdown where somebody looks."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Protocol

from core.cli.colors import Paint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class _View(Protocol):
    def write(self, text: str) -> None: ...

    def close(self) -> None: ...


@contextlib.contextmanager
def answer_view(*, markdown: bool) -> Iterator[Callable[[str], None]]:
    """Takes an answer piece by piece, shows it at once, and ends its last line.

    Args:
        markdown: whether to render Markdown where standard output is a terminal that can.
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
