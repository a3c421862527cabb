"""The standard streams: in colour or plain, on a terminal that no answer may drive, closed by the caller, or full."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import sys
from typing import TYPE_CHECKING, Any, TextIO, cast

import click

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


class OutputError(Exception):
    """Standard output cannot be written. No OSError, so that nobody takes it for the failure of another file."""

    def __init__(self, error: OSError) -> None:
        super().__init__(error.strerror)
        self.errno = error.errno


def open_closed_streams() -> None:
    """Gives each closed standard stream /dev/null: who closed it wants nothing of it.

    Left closed, the next file or socket would take its number, and errors would go where answers belong.
    """
    # In this order, as each gets the lowest number that is free.
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_RDONLY if mode == "r" else os.O_WRONLY)
            os.set_inheritable(descriptor, True)
            setattr(sys, name, os.fdopen(descriptor, mode, encoding="utf-8", closefd=False))


@contextlib.contextmanager
def checked_output() -> Iterator[None]:
    """All that is written to standard output inside either arrives or raises `OutputError`."""
    plain = sys.stdout
    sys.stdout = cast("TextIO", _Checked(plain))
    try:
        yield
        sys.stdout.flush()
    except OutputError:
        # What is left of it is dropped, so that the interpreter does not try again as it ends.
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, plain.fileno())
        os.close(null)
        raise
    finally:
        sys.stdout = plain


class _Checked:
    """A stream whose errors can be told from those of other files."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with _as_output_error():
            return self._stream.write(text)

    def flush(self) -> None:
        with _as_output_error():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def _as_output_error() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(error) from error


def tell_lost_output(error: OutputError) -> None:
    """Says that an answer is lost, but not to a reader who has had enough, as `head` has."""
    if error.errno != errno.EPIPE:
        print(f"error: cannot write to standard output: {error}", file=sys.stderr)


# All but line feed and tab: an answer must not move the cursor, retitle the window or fill the clipboard.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def wants_color(stream: TextIO, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether to write colours to a stream: `NO_COLOR` goes before `FORCE_COLOR`, that before what the stream is."""
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
