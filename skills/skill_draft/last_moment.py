"""End a call shortly before its deadline, so that the answer reaches its caller in time."""

from __future__ import annotations

import asyncio
from typing import Self

from skills.runtime.way_back import WayBack

from .flight import Flight

# How long before the deadline the time for the way back is first asked for. Nearly all calls end earlier and need not
# know it.
ASK_S = 2.0
# It is asked for again each time half of the remaining time has passed, until this much is left: a machine may get busy
# within a second.
LAST_S = 0.05


class LastMoment:
    """Context manager around a call that ends its flight in time.

    Args:
        flight: the flight of the call.
        way_back: knows how long before the deadline the answer has to be sent.
        peer: the caller's address, as gRPC gives it.
    """

    def __init__(self, flight: Flight, way_back: WayBack, peer: str) -> None:
        self._flight, self._way_back, self._peer = flight, way_back, peer
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        deadline = self._flight.request.deadline
        if deadline is not None:
            loop = asyncio.get_running_loop()  # its clock is that of deadlines, time.monotonic()
            when = max(deadline - ASK_S, loop.time())
            self._timer = loop.call_at(when, self._ask, loop, deadline, when)
        return self

    def __exit__(self, *_: object) -> None:
        if self._timer:
            self._timer.cancel()

    def _ask(self, loop: asyncio.AbstractEventLoop, deadline: float, when: float) -> None:
        now = loop.time()
        self._way_back.note_delay(now - when, now)
        needs_s = self._way_back.needs_s(self._peer, deadline - self._flight.request.arrived)
        end = deadline - needs_s
        if (left_s := end - now) > LAST_S:
            self._timer = loop.call_at(when := now + left_s / 2, self._ask, loop, deadline, when)
        else:
            self._timer = loop.call_at(end, self._flight.time_is_up)
