"""The nearest tier: this process's memory, bounded in bytes.

Frequency decides about admission (TinyLFU): what is asked for once pushes out nothing that is asked for often. The
library behind that is reached through one class with a few methods, and has a plainer one as its way back.
"""

from __future__ import annotations

from typing import Protocol

from .kept import Entry

ENTRY_BYTES = 1024
"""What an entry takes in addition to its value: key, objects, the library's tables; measured as 630 to 770 bytes."""


def weight(value: bytes) -> int:
    """Return the memory that an entry takes, bytes; an eighth more than its value for what malloc leaves unused."""
    return len(value) + len(value) // 8 + ENTRY_BYTES


class Memory(Protocol):
    """Entries by key, bounded by their weight."""

    max_bytes: int

    def get(self, key: bytes) -> Entry | None:
        """Return an entry, and count that it was asked for."""

    def put(self, key: bytes, entry: Entry) -> None:
        """Keep an entry, unless others are worth more; within the bound when it returns."""

    def remove(self, key: bytes) -> None:
        """Forget an entry."""

    def clear(self) -> None:
        """Forget all entries."""

    def size(self) -> tuple[int, int]:
        """Return the number of entries and their weight."""


class TinyLfu:
    """Admits by frequency; the implementation is moka's.

    Args:
        max_bytes: the weight of all entries together.

    Raises:
        ImportError: moka-py is not installed.
    """

    def __init__(self, max_bytes: int) -> None:
        from moka_py import Moka

        self.max_bytes = max_bytes
        self._entries: Moka[bytes, Entry] = Moka(max_bytes, weigher=lambda _, entry: weight(entry.value))

    def get(self, key: bytes) -> Entry | None:
        """Return an entry, and count that it was asked for."""
        return self._entries.get(key)

    def put(self, key: bytes, entry: Entry) -> None:
        """Keep an entry, unless others are worth more."""
        self._entries.set(key, entry)
        self._entries.run_pending_tasks()  # 1 us; otherwise up to hundreds of entries are over the bound for a while

    def remove(self, key: bytes) -> None:
        """Forget an entry."""
        self._entries.remove(key)

    def clear(self) -> None:
        """Forget all entries."""
        self._entries.clear()
        self._entries.run_pending_tasks()

    def size(self) -> tuple[int, int]:
        """Return the number of entries and their weight."""
        self._entries.run_pending_tasks()
        return self._entries.count(), self._entries.weighted_size()


class LeastRecentlyUsed:
    """The way back: the least recently used go first; the implementation is cachetools'.

    Args:
        max_bytes: the weight of all entries together.

    Raises:
        ImportError: cachetools is not installed.
    """

    def __init__(self, max_bytes: int) -> None:
        from cachetools import LRUCache

        self.max_bytes = max_bytes
        self._entries: LRUCache[bytes, Entry] = LRUCache(max_bytes, getsizeof=lambda entry: weight(entry.value))

    def get(self, key: bytes) -> Entry | None:
        """Return an entry, which is the newest from then on."""
        found: Entry | None = self._entries.get(key)
        return found

    def put(self, key: bytes, entry: Entry) -> None:
        """Keep an entry, unless it alone is over the bound."""
        self.remove(key)
        if weight(entry.value) <= self.max_bytes:
            self._entries[key] = entry

    def remove(self, key: bytes) -> None:
        """Forget an entry."""
        self._entries.pop(key, None)

    def clear(self) -> None:
        """Forget all entries."""
        self._entries.clear()

    def size(self) -> tuple[int, int]:
        """Return the number of entries and their weight."""
        return len(self._entries), int(self._entries.currsize)


def best_memory(max_bytes: int) -> Memory:
    """Return the best memory tier that this installation has the library for.

    Raises:
        ImportError: It has none.
    """
    try:
        return TinyLfu(max_bytes)
    except ImportError:
        return LeastRecentlyUsed(max_bytes)
