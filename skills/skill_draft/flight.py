"""A request between its caller and the engine: what it was given so far is all that it takes to go on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from .engine.messages import Admitted, Done, Event, Failed, Piece, Request, Tokens


@dataclass(slots=True, eq=False)
class Flight:
    """One request on its way. Survives the engine that works on it."""

    request: Request
    received: list[Tokens] = field(default_factory=list)
    admitted: Admitted | None = None
    first_token_at: float | None = None
    last_token_at: float | None = None
    _events: asyncio.Queue[Event] = field(default_factory=asyncio.Queue)

    def __post_init__(self) -> None:
        self.received = list(self.request.so_far) or [Tokens()] * self.request.num_candidates

    def resumed(self) -> Request:
        """The request with what its caller has by now."""
        values = {name: getattr(self.request, name) for name in Request.__slots__}
        return Request(**{**values, "so_far": tuple(self.received) if any(t.token_ids for t in self.received) else ()})

    def take(self, event: Event) -> None:
        """Notes an event and hands it on to the caller."""
        match event:
            case Admitted() if self.admitted is None:
                self.admitted = event
            case Piece():
                self.last_token_at = time.monotonic()
                self.first_token_at = self.first_token_at or self.last_token_at
                self.received[event.candidate] += event.tokens
        self._events.put_nowait(event)

    @property
    def written(self) -> int:
        """Tokens that this call has received, without those of a continuation."""
        had = sum(len(t.token_ids) for t in self.request.so_far)
        return sum(len(t.token_ids) for t in self.received) - had

    async def events(self) -> AsyncIterator[Piece | Done | Failed]:
        """Pieces as they come; the last event is `Done` or `Failed`."""
        while True:
            event = await self._events.get()
            if isinstance(event, Piece | Done | Failed):
                yield event
            if isinstance(event, Done | Failed):
                return
