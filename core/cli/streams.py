"""The standard streams: colours, control characters on a terminal, and streams that are closed or cannot be written."""

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
    """Standard output cannot be written. Not an OSError, so that it is not mistaken for the failure of another file."""

    def __init__(self, error: OSError) -> None:
        super().__init__(error.strerror)
        self.errno = error.errno


def open_closed_streams() -> None:
    """Replace each closed standard stream by /dev/null.

    Otherwise the next file or socket would take its number, and errors would go where answers belong.
    """
    # In this order, as each gets the lowest number that is free.
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_RDONLY if mode == "r" else os.O_WRONLY)
            os.set_inheritable(descriptor, True)
            setattr(sys, name, os.fdopen(descriptor, mode, encoding="utf-8", closefd=False))


@contextlib.contextmanager
def checked_output() -> Iterator[None]:
    """Ensure that all that is written to standard output in a block either arrives or raises `OutputError`."""
    plain = sys.stdout
    sys.stdout = cast("TextIO", _Checked(plain))
    try:
        yield
        sys.stdout.flush()
    except OutputError:
        # The rest is dropped, so that the interpreter does not try again as it ends.
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, plain.fileno())
        os.close(null)
        raise
    finally:
        sys.stdout = plain


class _Checked:
    """A stream whose errors can be distinguished from those of other files."""

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
    """Report that an answer is lost, unless the reader stopped reading, as `head` does."""
    if error.errno != errno.EPIPE:
        print(f"error: cannot write to standard output: {error}", file=sys.stderr)


# All but line feed and tab: an answer must not move the cursor, retitle the window or fill the clipboard.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def wants_color(stream: TextIO, environ: Mapping[str, str] = os.environ) -> bool:
    """Return whether to write colours to a stream: `NO_COLOR` overrides `FORCE_COLOR`, which overrides `isatty`."""
    if environ.get("NO_COLOR"):
        return False
    if environ.get("FORCE_COLOR"):
        return environ["FORCE_COLOR"] != "0"
    return is_terminal(stream) and environ.get("TERM") != "dumb"


def is_terminal(stream: TextIO) -> bool:
    """Return whether a stream is a terminal."""
    try:
        return stream.isatty()
    except ValueError:  # closed
        return False


def harmless(text: str) -> str:
    """Return a text without the characters that control a terminal."""
    return _CONTROLS.sub("", text)


class Paint:
    """Writes text to a stream, with colours if wanted, and to a terminal without control characters.

    Args:
        stream: Standard output or standard error.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.color = wants_color(stream)
        self.terminal = is_terminal(stream)
        self.can_redraw = self.terminal and os.environ.get("TERM", "").lower() not in ("dumb", "unknown")

    def write(self, text: str, **style: bool | str) -> None:
        """Write a text as it is, and flush it. Style as for `click.style`."""
        if self.terminal:
            text = harmless(text)
        if self.color and style and text:
            text = click.style(text, **style)  # type: ignore[arg-type]  # it takes a keyword for each attribute
        self._stream.write(text)
        self._stream.flush()

    def line(self, text: str = "", **style: bool | str) -> None:
        """Write a line."""
        self.write(text, **style)
        self._stream.write("\n")
        self._stream.flush()
