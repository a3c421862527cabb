"""Two faults of gRPC, and what helps: a Ctrl-C as a call begins, and a call's end that its reader never hears of."""

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


_CANCELLED = 1  # the number of the status


def tell_lost_end(rpc: Any) -> None:
    """Have a stream's reader hear of an end that has come. Does nothing to a call that runs, or was read to its end.

    Seen with grpcio 1.85.1 where several calls of a channel run while their server goes away: the status has come, but
    the operations for the next message stay open. The reader waits for ever, as no deadline ends what has ended, and so
    does closing the channel. Cancelling the call in gRPC's core completes them; `cancel` of the call itself does
    nothing once there is a status.

    Args:
        rpc: a call of a synchronous stub.
    """
    if not rpc.is_active():
        rpc._call.cancel(_CANCELLED, "its end was lost")  # noqa: SLF001 - gRPC has no public name for this


def cancel_and_tell(rpc: Any) -> None:
    """Cancel a call, and have its reader hear of that even where gRPC had lost its end just before."""
    rpc.cancel()
    tell_lost_end(rpc)
