"""Coalesce the engine's events into frames.

Each frame wakes the server and each piece its caller. On a small machine they take a core from one of llama.cpp's
threads, for which all others then wait: sending a token by itself costs a third of the step that made it (135M model,
one stream). So pieces wait up to the flush interval to be sent together, except the first of an answer; all other
events are sent immediately.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from .messages import Beat, Event, Piece, Stats

BEAT_S = 0.05


class Outbox:
    """Events in order of occurrence; waiting pieces of the same candidate are merged."""

    def __init__(self, send: Callable[[list[Event]], None], *, flush_interval_s: float) -> None:
        """Call `send` with each frame; a piece waits for `flush_interval_s` at most."""
        self._send, self._flush_interval_s = send, flush_interval_s
        self._events: list[Event] = []
        self._pieces: dict[tuple[int, int], int] = {}  # index in it of each candidate's piece
        self._urgent = False
        self._waiting_since = self._last_beat = 0.0

    def put(self, event: Event) -> None:
        """Send an event with the next `flush`."""
        self._events.append(event)
        self._urgent = True

    def put_piece(self, piece: Piece | None) -> None:
        """Send a piece within the flush interval, merged with others of its candidate."""
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
        """Whether any event is waiting to be sent."""
        return bool(self._events)

    def flush(self, stats: Callable[[], Stats], *, next_in_s: float) -> None:
        """Send all events if any is urgent or due; a heartbeat goes along with urgent ones and every `BEAT_S`.

        Args:
            stats: Returns the figures for the heartbeat.
            next_in_s: Seconds until the next call; pieces that would be overdue by then are due now.
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
