"""Ctrl-C at a moment that gRPC does not survive."""

from __future__ import annotations

# The functions of `signal` make enums of all that they return, which takes 25 microseconds instead of 1.
import _signal  # type: ignore[import-not-found]  # typeshed leaves it out
import threading
from types import FrameType
from typing import Any


class HeldInterrupts:
    """Ctrl-C waits until the block is over: `with HeldInterrupts(): …`. For blocks of microseconds.

    gRPC registers a call with its channel before it starts the thread that serves it. A KeyboardInterrupt between the
    two leaves a call that nobody serves, and closing the channel waits for it for ever.

    Does nothing where a KeyboardInterrupt cannot happen: outside the main thread, or if SIGINT is not Python's.
    """

    __slots__ = ("_came", "_handler")

    def __enter__(self) -> None:
        self._came: list[tuple[int, FrameType | None]] = []
        self._handler: Any = None
        if threading.current_thread() is threading.main_thread():
            handler = _signal.getsignal(_signal.SIGINT)
            if callable(handler):
                self._handler = handler
                _signal.signal(_signal.SIGINT, self._hold)

    def _hold(self, number: int, frame: FrameType | None) -> None:
        self._came.append((number, frame))

    def __exit__(self, *_: object) -> None:
        if self._handler is not None:
            _signal.signal(_signal.SIGINT, self._handler)
            if self._came:
                self._handler(*self._came[0])
