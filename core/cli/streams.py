"""The standard streams where they are not as usual: closed by the caller, as cron and daemons do, or full."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from typing import TYPE_CHECKING, Any, TextIO, cast

if TYPE_CHECKING:
    from collections.abc import Iterator


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
