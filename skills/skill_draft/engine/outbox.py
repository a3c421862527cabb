"""What the engine says, a frame at a time.

Each frame wakes the server and each piece the caller, and on a small machine they take the core from a thread that the
other ones wait for: a token that goes out alone costs a third of the step that made it (135M model, one stream). So
pieces wait a little for company, but for the first of an answer; everything else goes at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from .messages import Beat, Event, Piece, Stats

BEAT_S = 0.05


class Outbox:
    """Events in the order in which they happened; pieces of one answer that wait together become one."""

    def __init__(self, send: Callable[[list[Event]], None], *, flush_interval_s: float) -> None:
        """`flush_interval_s` is how long a piece may wait."""
        self._send, self._flush_interval_s = send, flush_interval_s
        self._events: list[Event] = []
        self._pieces: dict[tuple[int, int], int] = {}  # where in it the piece of a candidate is
        self._urgent = False
        self._waiting_since = self._last_beat = 0.0

    def put(self, event: Event) -> None:
        """Goes out with the next `flush`."""
        self._events.append(event)
        self._urgent = True

    def put_piece(self, piece: Piece | None) -> None:
        """May wait for others."""
        if piece is None:
            return
        key = piece.id, piece.candidate
        if (at := self._pieces.get(key)) is not None:
            waiting = self._events[at]
            assert isinstance(waiting, Piece)
            self._events[at] = waiting + piece
            return
        if not self._pieces:
            self._waiting_since = time.monotonic()
        self._pieces[key] = len(self._events)
        self._events.append(piece)
        self._urgent |= piece.first

    @property
    def holds_any(self) -> bool:
        """Whether something waits to be sent."""
        return bool(self._events)

    def flush(self, stats: Callable[[], Stats], *, next_in_s: float) -> None:
        """Sends what must go now, and the figures with it when there is news beside pieces, or now and then.

        `next_in_s` says when the next chance will be: what would have waited too long by then goes now.
        """
        now = time.monotonic()
        if self._pieces and not self._urgent and now + next_in_s - self._waiting_since < self._flush_interval_s:
            return
        if self._urgent or not self._events or now - self._last_beat >= BEAT_S:
            self._events.append(Beat(stats=stats(), sent=now))
            self._last_beat = now
        events, self._events = self._events, []
        self._pieces.clear()
        self._urgent = False
        self._send(events)
