"""Which images running requests need the rows of: asked for when a request comes to them, given back when read."""

from __future__ import annotations

from collections.abc import Callable

from .embedding import SharedRows
from .messages import Event, Rows, RowsRead, WantRows
from .sequence import Call


class RowsInUse:
    """The rows that running calls wait for or read."""

    def __init__(self, shared: SharedRows, put: Callable[[Event], None]) -> None:
        """`put` sends an event to the server."""
        self._shared, self._put = shared, put

    def update(self, call: Call) -> None:
        """Ask for the rows that a call needs next, and give back those that it has read.

        The next image's rows are asked for when those of the one before are there. A call that does not run, as it was
        preempted, needs none: it asks again if it still has to read the image when it continues.
        """
        images = call.images
        if images is None:
            return
        ahead = [[run.image for run in images.after(s.slot.length)] for s in call.sequences if s.slot]
        needed = {image.key for unread in ahead for image in unread}
        for key in images.wanted - needed:
            images.wanted.discard(key)
            if images.offsets.pop(key, None) is not None:
                self._put(RowsRead(id=call.request.id, key=key))
        for unread in ahead:
            missing = next((image for image in unread[:2] if image.key not in images.offsets), None)
            if missing and missing.key not in images.wanted:
                images.wanted.add(missing.key)
                self._put(WantRows(id=call.request.id, image=missing))

    def take(self, call: Call, rows: Rows) -> bool:
        """Take rows that have come; return whether they can be those of an image of this call."""
        images = call.images
        image = next((run.image for run in images.runs if run.image.key == rows.key), None) if images else None
        if images is None or image is None or not self._shared.holds(image, rows.offset):
            return False
        if rows.key in images.wanted:
            images.offsets[rows.key] = rows.offset
        else:  # not needed any more
            self._put(RowsRead(id=call.request.id, key=rows.key))
        return True
