"""Gets engines the rows of the images that they want: from the rows memory, or from the vision process.

Requests that want the same image share its encoding. One image is encoded at a time, in the order in which they were
first wanted. What no request waits for any more is not encoded; if that has begun, its process is killed, as the vision
library cannot be interrupted, unless it is nearly done.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from .engine.messages import Failed, FailureKind, Image, Rows, RowsRead, WantRows
from .rows_memory import RowsMemory
from .supervisor_events import Encoding, Event, RowsFailed
from .vision_process import BadImageError, Vision, VisionError

log = logging.getLogger("sarai.draft")

PROGRESS_S = 0.5
_FLOAT_BYTES = 4
_NEARLY_DONE_S = 2.0
"""An encoding that is expected to end within this is not given up: starting a new process takes about as long."""
_HEARD_S = 1.0
"""Within this time an engine has heard that a request has left."""
_NEWEST = 0.3
"""The weight of the newest encoding in the learned speed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where an image of a request comes from."""

    image: Image
    data: bytes
    """The file."""
    max_tokens: int
    field: str
    """The path of its field in the request."""


@dataclass(slots=True, eq=False)
class _Wanted:
    """An image that is to be encoded."""

    source: Source
    asked: set[int] = field(default_factory=set)
    """The requests for which the present engine has asked for it."""


class ImageRows:
    """See the module. Used by the supervisor (`RowsSource`) and by the server.

    Args:
        memory: The rows memory.
        vision: The vision process.
        row_width: Floats in a row.
        token_s: Expected time of encoding an image token, seconds; learned from then on.
    """

    def __init__(self, memory: RowsMemory, vision: Vision, *, row_width: int, token_s: float) -> None:
        self._memory, self._vision = memory, vision
        self._row_bytes, self._token_s = row_width * _FLOAT_BYTES, token_s
        self._sources: dict[int, Mapping[bytes, Source]] = {}
        self._wanted: dict[bytes, _Wanted] = {}  # in their order
        self._tell: Callable[[Event], None] = lambda _: None
        self._work: asyncio.Task[None] | None = None
        self._encoding: tuple[bytes, asyncio.Task[float], float] | None = None  # key, task, time of its begin
        self._room = asyncio.Event()
        self.encoded = 0
        """Images that were encoded since the start."""

    # --- for the server ---

    def enter(self, id_: int, sources: Mapping[bytes, Source]) -> None:
        """Announce the images of a request, by their keys and in their order."""
        self._sources[id_] = sources

    def leave(self, id_: int) -> None:
        """Release all that a request has here. Idempotent."""
        self._sources.pop(id_, None)
        # The engine may not have heard of it yet, and would read what comes into the place of the rows.
        asyncio.get_running_loop().call_later(_HEARD_S, self._unpin, id_)
        for key, wanted in list(self._wanted.items()):
            wanted.asked.discard(id_)
            # Another request with this image may be about to ask: after the engine's death, or when it is admitted.
            if not any(key in sources for sources in self._sources.values()):
                self._give_up(key)

    def _unpin(self, id_: int, key: bytes | None = None) -> None:
        self._memory.unpin(id_, key)
        self._room.set()

    async def close(self) -> None:
        """End all work."""
        if self._work:
            self._work.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._work
        self._memory.close()

    # --- for the supervisor ---

    def want(self, want: WantRows, tell: Callable[[Event], None]) -> None:
        """Get rows (see `RowsSource`)."""
        self._tell = tell
        key = want.image.key
        source = self._sources.get(want.id, {}).get(key)
        if source is None:
            message = "the engine wants an image that the request does not have"
            tell(RowsFailed(Failed(id=want.id, kind=FailureKind.INTERNAL, message=message)))
        elif not self._hand_over(want.id, key):
            wanted = self._wanted.setdefault(key, _Wanted(source))
            wanted.asked.add(want.id)
            self._tell_progress()
            if self._work is None or self._work.done():
                self._work = asyncio.create_task(self._encode_all())

    def release(self, read: RowsRead | None) -> None:
        """Release rows (see `RowsSource`)."""
        if read is not None:
            self._unpin(read.id, read.key)
        else:
            for id_ in self._sources:
                self._unpin(id_)
            # The encoding goes on: the next engine will want it in a moment.
            for wanted in self._wanted.values():
                wanted.asked.clear()

    # --- encoding ---

    def _hand_over(self, id_: int, key: bytes) -> bool:
        """Tell of the rows of an image if they are there."""
        region = self._memory.find(key)
        if region is None:
            return False
        region.pins.add(id_)
        self._tell(Rows(id=id_, key=key, offset=region.offset))
        return True

    def _give_up(self, key: bytes) -> None:
        if self._encoding is None or self._encoding[0] != key:
            del self._wanted[key]
        elif not 0 < self._left_s(key) < _NEARLY_DONE_S:  # 0: it takes longer than was expected
            self._encoding[1].cancel()

    async def _encode_all(self) -> None:
        progress = asyncio.create_task(self._tell_progress_regularly())
        try:
            while self._wanted:
                key, wanted = next(iter(self._wanted.items()))
                await self._encode(key, wanted)
        finally:
            progress.cancel()

    async def _encode(self, key: bytes, wanted: _Wanted) -> None:
        """Encode an image, and tell those who wait for it."""
        source, n_tokens = wanted.source, wanted.source.image.n_tokens
        region = self._memory.allocate(key, n_tokens * self._row_bytes)
        if region is None:
            self._room.clear()
            await self._room.wait()
            return
        region.pins.add(self)
        task = asyncio.create_task(self._vision.encode(source.data, source.max_tokens, region.offset))
        self._encoding = key, task, time.monotonic()
        try:
            await asyncio.wait({task})
        finally:
            self._encoding = None
            task.cancel()  # where this task was cancelled while it waited
            region.pins.discard(self)
            if task.cancelled() or not task.done() or task.exception():
                self._memory.free(key)
        if task.cancelled() and wanted.asked:
            return  # a request came while the last one left: it is encoded anew
        del self._wanted[key]
        if task.cancelled():
            return
        if error := task.exception():
            self._fail(wanted, error)
            return
        region.whole = True
        self.encoded += 1
        self._token_s += (task.result() / n_tokens - self._token_s) * _NEWEST
        for id_ in sorted(wanted.asked):
            self._hand_over(id_, key)

    def _fail(self, wanted: _Wanted, error: BaseException) -> None:
        kind, message = FailureKind.INVALID, str(error)
        if not isinstance(error, BadImageError):
            kind, message = FailureKind.INTERNAL, f"the image cannot be encoded: {error}"
            log.error("an image cannot be encoded: %s", error, exc_info=not isinstance(error, VisionError))
        for id_ in sorted(wanted.asked):
            source = self._sources.get(id_, {}).get(wanted.source.image.key)
            path = source.field if source and kind is FailureKind.INVALID else ""
            self._tell(RowsFailed(Failed(id=id_, kind=kind, message=message, field=path)))

    # --- progress ---

    async def _tell_progress_regularly(self) -> None:
        while True:
            await asyncio.sleep(PROGRESS_S)
            self._tell_progress()

    def _tell_progress(self) -> None:
        before_s = 0.0
        for key, wanted in list(self._wanted.items()):
            before_s += self._left_s(key)
            for id_ in sorted(wanted.asked):
                later = self._later(id_, key)
                wait_s = before_s + sum(image.n_tokens * self._token_s for image in later)
                self._tell(Encoding(id_, 1 + len(later), wait_s))

    def _left_s(self, key: bytes) -> float:
        """Return how long the encoding of an image will still take, when it is its turn."""
        expected_s = self._wanted[key].source.image.n_tokens * self._token_s
        if self._encoding is None or self._encoding[0] != key:
            return expected_s
        return max(0.0, expected_s - (time.monotonic() - self._encoding[2]))

    def _later(self, id_: int, key: bytes) -> list[Image]:
        """Return the images of a request after this one that are not in the rows memory."""
        keys = list(self._sources.get(id_, ()))
        later = keys[keys.index(key) + 1 :] if key in keys else []
        return [self._sources[id_][other].image for other in later if self._memory.find(other) is None]
