"""Pictures that were normalised before, bounded in bytes, least recently used go first."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass

import cachetools

from .jobs import Job, Picture

# What an entry costs beside its bytes: key, values, the cache's own tables.
_ENTRY_BYTES = 2048
MOST_SIMILAR = 16
"""Near duplicates that are told at most."""


def distance(one: int, other: int) -> int:
    """In how many of their 64 bits two perceptual hashes differ. Near duplicates: up to about 10; strangers: 32."""
    return (one ^ other).bit_count()


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A picture as it was answered."""

    source_sha256: bytes
    picture: Picture
    encoded: bytes


def cache_key(source_sha256: bytes, job: Job) -> bytes:
    """SHA-256 over all that decides the answer: the bytes that were sent, and every wish."""
    wishes = json.dumps(dataclasses.asdict(job), sort_keys=True).encode()
    return hashlib.sha256(source_sha256 + wishes).digest()


class PictureCache:
    """Answers by content alone: who sends the same bytes with the same wishes gets the same answer.

    Args:
        max_bytes: of all entries together; 0 keeps nothing.
    """

    def __init__(self, *, max_bytes: int) -> None:
        self._entries: cachetools.LRUCache[bytes, Entry] = cachetools.LRUCache(
            max_bytes, getsizeof=lambda entry: len(entry.encoded) + _ENTRY_BYTES
        )
        self.hits = self.misses = 0

    @property
    def num_bytes(self) -> int:
        """What the entries hold."""
        return int(self._entries.currsize)

    def get(self, key: bytes) -> Entry | None:
        """The entry, which is then the newest."""
        entry: Entry | None = self._entries.get(key)
        if entry is None:
            self.misses += 1
        else:
            self.hits += 1
        return entry

    def put(self, key: bytes, entry: Entry) -> None:
        """Keeps an entry, unless it alone is larger than the cache."""
        if len(entry.encoded) + _ENTRY_BYTES <= self._entries.maxsize:
            self._entries[key] = entry

    def similar(self, perceptual_hash: int, within: int, *, beside: bytes) -> list[tuple[int, bytes]]:
        """Pictures that look much the same, as (distance, SHA-256 of what was sent), the nearest first.

        Args:
            perceptual_hash: of the picture that is asked about.
            within: the distance at most, bits.
            beside: the SHA-256 of that picture itself, which does not count.
        """
        found = {
            entry.source_sha256: apart
            for entry in self._entries.values()
            if (apart := distance(entry.picture.perceptual_hash, perceptual_hash)) <= within
        }
        found.pop(beside, None)
        return sorted((apart, digest) for digest, apart in found.items())[:MOST_SIMILAR]
