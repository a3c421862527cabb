"""Colour, or none: `NO_COLOR` goes before `FORCE_COLOR`, that before what the stream is."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, TextIO

import click

if TYPE_CHECKING:
    from collections.abc import Mapping

# All but line feed and tab: an answer must not move the cursor, retitle the window or fill the clipboard.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def wants_color(stream: TextIO, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether to write colours to a stream."""
    if environ.get("NO_COLOR"):
        return False
    if environ.get("FORCE_COLOR"):
        return environ["FORCE_COLOR"] != "0"
    return is_terminal(stream) and environ.get("TERM") != "dumb"


def is_terminal(stream: TextIO) -> bool:
    """Whether somebody looks at it."""
    try:
        return stream.isatty()
    except ValueError:  # closed
        return False


def harmless(text: str) -> str:
    """A text without what drives a terminal."""
    return _CONTROLS.sub("", text)


class Paint:
    """Writes text to one stream, in colour where that is wanted, without control characters where somebody looks.

    Args:
        stream: standard output or standard error.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.color = wants_color(stream)
        self.terminal = is_terminal(stream)
        self.can_redraw = self.terminal and os.environ.get("TERM", "").lower() not in ("dumb", "unknown")

    def write(self, text: str, **style: bool | str) -> None:
        """Writes a text as it is, and shows it at once. Style as for `click.style`."""
        if self.terminal:
            text = harmless(text)
        if self.color and style and text:
            text = click.style(text, **style)  # type: ignore[arg-type]  # it takes a keyword for each attribute
        self._stream.write(text)
        self._stream.flush()

    def line(self, text: str = "", **style: bool | str) -> None:
        """Writes a line."""
        self.write(text, **style)
        self._stream.write("\n")
        self._stream.flush()
