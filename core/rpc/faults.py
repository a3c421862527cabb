"""Workarounds for two faults of gRPC: a Ctrl-C as a call begins, and a call's end that never reaches its reader."""

from __future__ import annotations

# The functions of `signal` turn all results into enums, which takes 25 microseconds instead of 1.
import _signal  # type: ignore[import-not-found]  # typeshed leaves it out
import threading
from types import FrameType
from typing import Any


class HeldInterrupts:
    """Delays Ctrl-C to the end of a block, which should take microseconds: `with HeldInterrupts(): …`.

    gRPC registers a call with its channel before it starts the thread that serves it. A KeyboardInterrupt between the
    two leaves a call that is never served, and closing the channel waits for it for ever.

    Does nothing if a KeyboardInterrupt cannot happen: outside the main thread, or if SIGINT is not Python's.
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


_CANCELLED = 1  # status code


def tell_lost_end(rpc: Any) -> None:
    """Make a stream's end reach its reader. Does nothing to a call that runs, or was read to its end.

    Seen with grpcio 1.85.1 when a server goes away while a channel has several calls: the status has come, but the
    operations for the next message stay open. The reader waits for ever, as no deadline ends a call that has ended, and
    so does closing the channel. Cancelling the call in gRPC's core completes the operations; once there is a status,
    `cancel` of the call itself does nothing.

    Args:
        rpc: A call of a synchronous stub.
    """
    if not rpc.is_active():
        rpc._call.cancel(_CANCELLED, "its end was lost")  # noqa: SLF001 - gRPC has no public name for this


def cancel_and_tell(rpc: Any) -> None:
    """Cancel a call, and make that reach its reader even if gRPC has just lost the end of the call."""
    rpc.cancel()
    tell_lost_end(rpc)
