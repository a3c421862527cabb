"""A request in flight whose caller waits for its events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from .engine.messages import Done, Failed, Piece, Progress, Request
from .engine.messages import Event as EngineEvent
from .flight import Flight


class AwaitedFlight(Flight):
    """A flight whose caller waits for its events."""

    def __init__(self, request: Request) -> None:
        super().__init__(request)
        self._events: asyncio.Queue[EngineEvent] = asyncio.Queue()

    def deliver(self, event: EngineEvent) -> None:
        """Queue an event for the caller."""
        self._events.put_nowait(event)

    async def events(self) -> AsyncIterator[Progress | Piece | Done | Failed]:
        """Yield progress and pieces as they arrive; the last event is `Done` or `Failed`."""
        while True:
            event = await self._events.get()
            if isinstance(event, Progress | Piece | Done | Failed):
                yield event
            if isinstance(event, Done | Failed):
                return
