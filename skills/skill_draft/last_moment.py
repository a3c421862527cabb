"""The end of a call's time, a little before its deadline: so that the answer is with its caller in time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Self, TypeVarTuple, Unpack

from skills.runtime.way_back import WayBack

from .flight import Flight

_Arguments = TypeVarTuple("_Arguments")

# What a server that never answers so says of itself in its initial metadata. The pool's (core/calls.py) is the same.
HARD_DEADLINES = ("sarai-deadline", "error")
# How long before a deadline it is asked how long the way back is: calls that end earlier, nearly all, need not know.
ASK_S = 2.0


class LastMoment:
    """Ends a flight in time; a context manager around the call.

    Args:
        flight: the call.
        way_back: knows how long before the deadline that has to be.
        peer: the caller, as gRPC names it.
    """

    def __init__(self, flight: Flight, way_back: WayBack, peer: str) -> None:
        self._flight, self._way_back, self._peer = flight, way_back, peer
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        deadline = self._flight.request.deadline
        if deadline is not None:
            self._timer = _call_at(deadline - ASK_S, self._ask, deadline)
        return self

    def __exit__(self, *_: object) -> None:
        if self._timer:
            self._timer.cancel()

    def _ask(self, deadline: float) -> None:
        needs_s = self._way_back.needs_s(self._peer, deadline - self._flight.request.arrived)
        self._timer = _call_at(deadline - needs_s, self._flight.time_is_up)


def _call_at(when: float, call: Callable[[Unpack[_Arguments]], None], *arguments: *_Arguments) -> asyncio.TimerHandle:
    """Calls at a time of the monotonic clock, which an event loop's own need not be."""
    return asyncio.get_running_loop().call_later(when - time.monotonic(), call, *arguments)
