"""Find the kept answer to a near-equal prompt, which lookup speculation may propose tokens from.

Nothing else is done with it: every token is verified, so it decides how fast an answer comes and not what it is. How
near two prompts are is estimated from sketches (MinHash in one permutation): 64 bytes for the shingles of all that is
asked, and 64 for those of its ends, as a question stands before or behind what it is about. Only the newest answers
are searched, all at once, in a bounded time and in memory of a fixed size.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .engine.messages import Image, Request, Turn
from .trajectory import ids_of

MOST_ENTRIES = 2048
ENTRY_BYTES = 512
"""What an entry takes at most: two sketches and the room to compare them, its context, its key, and their objects."""
SHARE = 1 / 16
"""The largest share of the memory for kept answers that goes to their sketches."""
MOST_TOKENS = 4096
"""The most tokens of an answer that are used."""

_SHINGLE = 6  # bytes
_BINS = 64
_NEAR = _BINS * 5 // 16  # equal bins of each sketch, from which on prompts are near-equal
_END_BYTES, _MOST_BYTES = 256, 1 << 12  # taken from the beginning, and as many from the end
_TRIES = 4  # entries that may turn out to be pushed out of memory
_EDGES = np.arange(_BINS, dtype=np.uint64) << np.uint64(58)


class Sketch(NamedTuple):
    """What of a request tells whether another one is near-equal."""

    context: bytes
    """SHA-256 of what must be equal: the tenant, all that determines the server's answers, and the kind of prompt."""
    marks: bytes
    """The two sketches of what is asked, one after the other."""


def sketch_of(request: Request, identity: bytes) -> Sketch:
    """Return the sketch of a request, whose images have been read.

    Args:
        request: The request.
        identity: What determines the answers of this server besides requests.
    """
    raw, tenant = request.raw is not None, request.tenant.encode()
    context = hashlib.sha256(b"".join((len(tenant).to_bytes(8), tenant, bytes((raw,)), identity))).digest()
    asked = _ends(request.raw or _text(request.turns[-1]), _END_BYTES)
    constraint = request.constraint.text if request.constraint else ""
    whole = _ends("\n".join((*map(_text, request.turns), request.raw or "", constraint)), _MOST_BYTES)
    return Sketch(context, _marks(asked) + _marks(whole))


class NearAnswers:
    """The sketches of the newest kept answers.

    Args:
        max_bytes: the memory for kept answers, of which sketches get a share.
        kept: returns what is kept in memory under a key, None if nothing is.
    """

    def __init__(self, max_bytes: int, kept: Callable[[bytes], bytes | None]) -> None:
        n = min(MOST_ENTRIES, int(max_bytes * SHARE) // ENTRY_BYTES)
        self.bytes = n * ENTRY_BYTES
        """The memory that it takes at most."""
        self._kept = kept
        self._marks = np.zeros((2, _BINS, n), np.uint8)
        self._equal = np.zeros((2, _BINS, n), np.bool_)  # room for a search, which would take longer in new memory
        self._contexts = np.zeros(n, np.uint64)
        self._entries: list[tuple[bytes, bytes] | None] = [None] * n  # context and key
        self._next = self._filled = 0  # the oldest one, which is replaced next; how many there are

    def add(self, sketch: Sketch, key: bytes) -> None:
        """Note that an answer is kept under a key."""
        if self._entries:
            self._marks[:, :, self._next] = _as_array(sketch)[:, :, 0]
            self._contexts[self._next] = _number(sketch.context)
            self._entries[self._next] = sketch.context, key
            self._filled = max(self._filled, self._next + 1)
            self._next = (self._next + 1) % len(self._entries)

    def clear(self) -> None:
        """Forget all sketches."""
        self._entries = [None] * len(self._entries)
        self._contexts.fill(0)
        self._next = self._filled = 0

    def look(self, request: Request, identity: bytes) -> tuple[Sketch, tuple[int, ...]]:
        """Return the sketch of a request, and the tokens of the kept answer that `find` returns for it."""
        sketch = sketch_of(request, identity)
        return sketch, self.find(sketch) if request.lookup else ()

    def find(self, sketch: Sketch) -> tuple[int, ...]:
        """Return the tokens of the nearest kept answer, of equal ones the newest; empty if none is near."""
        n = self._filled
        if not n:
            return ()
        room = self._equal[:, :, :n]
        np.equal(self._marks[:, :, :n], _as_array(sketch), out=room)
        equal: npt.NDArray[np.uint8] = room.view(np.uint8).sum(1, dtype=np.uint8)
        near = (equal.min(0) >= _NEAR) & (self._contexts[:n] == _number(sketch.context))
        age = (self._next - 1 - np.arange(n)) % n
        rank = np.where(near, equal.sum(0, dtype=np.int64) * n + n - age, 0)
        for _ in range(_TRIES):
            at = int(rank.argmax())
            entry = self._entries[at] if rank[at] else None
            if entry is None:
                return ()
            if entry[0] == sketch.context and (value := self._kept(entry[1])) is not None:
                return ids_of(value, MOST_TOKENS)
            self._entries[at], rank[at] = None, 0
            self._contexts[at] = 0
        return ()


def _text(turn: Turn) -> str:
    parts = turn.parts or (turn.content,)
    return "".join(part.key.hex() if isinstance(part, Image) else part for part in parts)


def _ends(text: str, most: int) -> bytes:
    """Return the beginning and the end of a text, `most` bytes of each."""
    if len(text) <= most:
        return text.encode()
    return text[:most].encode()[:most] + text[-most:].encode()[-most:]


def _marks(text: bytes) -> bytes:
    """Return the sketch of a text: of each bin of hashes the least one's last byte, an empty bin has its neighbour's.

    Two texts have a bin in common with a probability that is the share of shingles that they have in common.
    """
    each = np.frombuffer(text.ljust(_SHINGLE, b"\0"), np.uint8).astype(np.uint64)
    pairs = each[:-1] | (each[1:] << np.uint64(8))
    hashes = pairs[:-4] | (pairs[2:-2] << np.uint64(16)) | (pairs[4:] << np.uint64(32))
    hashes *= np.uint64(0x9E3779B97F4A7C15)
    hashes ^= hashes >> np.uint64(29)
    hashes *= np.uint64(0xBF58476D1CE4E5B9)
    hashes ^= hashes >> np.uint64(32)
    hashes.sort()
    least = hashes.searchsorted(_EDGES) % len(hashes)
    marks: bytes = hashes[least].astype(np.uint8).tobytes()
    return marks


def _as_array(sketch: Sketch) -> npt.NDArray[np.uint8]:
    return np.frombuffer(sketch.marks, np.uint8).reshape(2, _BINS, 1)


def _number(context: bytes) -> np.uint64:
    return np.uint64(int.from_bytes(context[:8]))
