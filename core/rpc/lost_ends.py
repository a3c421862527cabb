"""A fault of gRPC: a call whose connection ends may have its status, and never tell its reader.

Seen with grpcio 1.85.1 where several calls of a channel run while their server goes away. The status has come, but the
operations for the next message stay open: the reader waits for ever, as no deadline ends what has ended, and so does
closing the channel. Cancelling the call in gRPC's core completes them; `cancel` of the call itself does nothing once
there is a status.
"""

from __future__ import annotations

from typing import Any

_CANCELLED = 1  # the number of the status


def tell_lost_end(rpc: Any) -> None:
    """Has a stream's reader hear of an end that has come. Does nothing to a call that runs, or that is read to its end.

    Args:
        rpc: a call of a synchronous stub.
    """
    if not rpc.is_active():
        rpc._call.cancel(_CANCELLED, "its end was lost")  # noqa: SLF001 - gRPC has no public name for this


def cancel_and_tell(rpc: Any) -> None:
    """Cancel a call, and have its reader hear of that even where gRPC had lost its end just before."""
    rpc.cancel()
    tell_lost_end(rpc)
