"""Cache of normalised pictures, bounded in bytes; the least recently used are evicted first."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass

import cachetools

from .jobs import Job, Picture

# Memory of an entry in addition to its bytes: key, values, the cache's own tables.
_ENTRY_BYTES = 2048
MOST_SIMILAR = 16
"""The most near duplicates that are reported."""


def distance(one: int, other: int) -> int:
    """Return in how many of 64 bits two perceptual hashes differ: up to about 10 for near duplicates, else about 32."""
    return (one ^ other).bit_count()


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A normalised picture."""

    source_sha256: bytes
    picture: Picture
    encoded: bytes


def cache_key(source_sha256: bytes, job: Job) -> bytes:
    """Return the SHA-256 over everything that determines the answer: the picture's bytes and all options."""
    wishes = json.dumps(dataclasses.asdict(job), sort_keys=True).encode()
    return hashlib.sha256(source_sha256 + wishes).digest()


class PictureCache:
    """Answers by content alone: the same bytes with the same options get the same answer.

    Args:
        max_bytes: Size of all entries together; 0 disables the cache.
    """

    def __init__(self, *, max_bytes: int) -> None:
        self._entries: cachetools.LRUCache[bytes, Entry] = cachetools.LRUCache(
            max_bytes, getsizeof=lambda entry: len(entry.encoded) + _ENTRY_BYTES
        )
        self.hits = self.misses = 0

    @property
    def num_bytes(self) -> int:
        """Size of the entries."""
        return int(self._entries.currsize)

    def get(self, key: bytes) -> Entry | None:
        """Return the entry, making it the most recently used; None if there is none."""
        entry: Entry | None = self._entries.get(key)
        if entry is None:
            self.misses += 1
        else:
            self.hits += 1
        return entry

    def put(self, key: bytes, entry: Entry) -> None:
        """Add an entry, unless it is larger than the cache."""
        if len(entry.encoded) + _ENTRY_BYTES <= self._entries.maxsize:
            self._entries[key] = entry

    def similar(self, perceptual_hash: int, within: int, *, other_than: bytes) -> list[tuple[int, bytes]]:
        """Return similar pictures as (distance, SHA-256 of the original), nearest first.

        Args:
            perceptual_hash: The hash of the picture in question.
            within: The largest distance, in bits.
            other_than: The SHA-256 of that picture itself, which is not reported.
        """
        found = {
            entry.source_sha256: apart
            for entry in self._entries.values()
            if (apart := distance(entry.picture.perceptual_hash, perceptual_hash)) <= within
        }
        found.pop(other_than, None)
        return sorted((apart, digest) for digest, apart in found.items())[:MOST_SIMILAR]
