"""Pictures that were normalised before, bounded in bytes; the least recently used go first."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass

import cachetools

from .jobs import Job, Picture

# What an entry costs in addition to its bytes: key, values, the cache's own tables.
_ENTRY_BYTES = 2048
MOST_SIMILAR = 16
"""The most near duplicates that are reported."""


def distance(one: int, other: int) -> int:
    """Return how many of their 64 bits differ: up to about 10 for near duplicates, 32 for unrelated pictures."""
    return (one ^ other).bit_count()


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A normalised picture."""

    source_sha256: bytes
    picture: Picture
    encoded: bytes


def cache_key(source_sha256: bytes, job: Job) -> bytes:
    """Return the SHA-256 over all that determines the answer: the bytes that were sent, and every wish."""
    wishes = json.dumps(dataclasses.asdict(job), sort_keys=True).encode()
    return hashlib.sha256(source_sha256 + wishes).digest()


class PictureCache:
    """Answers by content alone: the same bytes with the same wishes get the same answer.

    Args:
        max_bytes: the size of all entries together; 0 keeps nothing.
    """

    def __init__(self, *, max_bytes: int) -> None:
        self._entries: cachetools.LRUCache[bytes, Entry] = cachetools.LRUCache(
            max_bytes, getsizeof=lambda entry: len(entry.encoded) + _ENTRY_BYTES
        )
        self.hits = self.misses = 0

    @property
    def num_bytes(self) -> int:
        """The size of the entries."""
        return int(self._entries.currsize)

    def get(self, key: bytes) -> Entry | None:
        """Return the entry, which is the newest from then on, or None."""
        entry: Entry | None = self._entries.get(key)
        if entry is None:
            self.misses += 1
        else:
            self.hits += 1
        return entry

    def put(self, key: bytes, entry: Entry) -> None:
        """Keep an entry, unless it alone is larger than the cache."""
        if len(entry.encoded) + _ENTRY_BYTES <= self._entries.maxsize:
            self._entries[key] = entry

    def similar(self, perceptual_hash: int, within: int, *, other_than: bytes) -> list[tuple[int, bytes]]:
        """Return pictures that look much the same, as (distance, SHA-256 of what was sent), the nearest first.

        Args:
            perceptual_hash: the hash of the picture in question.
            within: the largest distance, in bits.
            other_than: the SHA-256 of that picture itself, which does not count.
        """
        found = {
            entry.source_sha256: apart
            for entry in self._entries.values()
            if (apart := distance(entry.picture.perceptual_hash, perceptual_hash)) <= within
        }
        found.pop(other_than, None)
        return sorted((apart, digest) for digest, apart in found.items())[:MOST_SIMILAR]
