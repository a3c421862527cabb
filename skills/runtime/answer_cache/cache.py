"""Answers that are kept: the tiers behind one front."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from skills.runtime.resources import memory_limit
from skills.runtime.settings import CachingSettings, SettingsError

from .disk import DiskTier
from .kept import KEY_BYTES, Entry, FarTier, Kept, Tier
from .memory import Memory, best_memory
from .shared import SharedTier

MOST_OF_MEMORY = 0.05
"""The largest share of the memory limit for kept answers."""
LEAST_SECRET_BYTES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheFigures:
    """How a cache is; the names are those of the contract's `CacheStats`."""

    entries: int
    """Answers in memory."""
    bytes: int
    """The memory that they take."""
    max_bytes: int
    disk_hits: int
    shared_hits: int
    shared: str
    """Empty where there is no shared store, else `up` or the reason why it is passed over just now."""


class AnswerCache:
    """Keeps bytes by keys of 32 bytes, in up to three tiers. One event loop uses it.

    A value is put there once it is whole, and found until it is pushed out. What is found in a farther tier is put into
    the nearer ones. No tier's failure reaches a caller: it is a miss.

    Args:
        settings: which tiers, and their bounds.
        reserved: of the memory for kept answers, what something else takes, bytes.

    Raises:
        SettingsError: The deployment's secret cannot be read, or the shared store's address is wrong.
    """

    def __init__(self, settings: CachingSettings, *, reserved: int = 0) -> None:
        max_bytes = memory_for_answers(settings) - reserved
        self._memory: Memory | None = best_memory(max_bytes) if max_bytes else None
        secret = _secret(settings.cache_secret_file) if settings.cache_secret_file else None
        self._far: list[FarTier] = []
        self._shared: SharedTier | None = None
        if self._memory and settings.cache_disk:
            disk = DiskTier(Path(settings.cache_disk), int(settings.cache_disk_mb * (1 << 20)), secret)
            self._far.append(disk)
        if self._memory and settings.cache_shared:
            self._shared = _shared_tier(settings.cache_shared, secret or b"")
            self._far.append(self._shared)
        self._hits = {Tier.DISK: 0, Tier.SHARED: 0}
        # Counts removals: what was read from a farther tier before one of them must not come back into a nearer tier.
        self._removals = 0

    @property
    def enabled(self) -> bool:
        """Whether anything is kept."""
        return self._memory is not None

    @property
    def has_far(self) -> bool:
        """Whether anything is kept but in memory."""
        return bool(self._far)

    @property
    def stats(self) -> CacheFigures:
        """Its figures; counts are since the start."""
        entries, num_bytes = self._memory.size() if self._memory else (0, 0)
        return CacheFigures(
            entries=entries,
            bytes=num_bytes,
            max_bytes=self._memory.max_bytes if self._memory else 0,
            disk_hits=self._hits[Tier.DISK],
            shared_hits=self._hits[Tier.SHARED],
            shared=self._shared.state if self._shared else "",
        )

    async def start(self) -> None:
        """Open the farther tiers; none of them being there is an error."""
        for tier in self._far:
            await tier.start()

    async def close(self) -> None:
        """Finish what is being written, for a moment at most, and close the farther tiers."""
        for tier in self._far:
            await tier.close()

    def in_memory(self, key: bytes, *, max_age_s: float | None = None) -> Kept | None:
        """Return a kept answer if it is in memory; takes microseconds.

        Args:
            key: 32 bytes.
            max_age_s: an older one is none; None: any age.
        """
        found = self._memory.get(key) if self._memory else None
        return _kept(found, Tier.MEMORY, max_age_s)

    async def get(self, key: bytes, *, max_age_s: float | None = None) -> Kept | None:
        """Return a kept answer: from memory, the disk, or the shared store.

        Args:
            key: 32 bytes.
            max_age_s: an older one is none; None: any age.
        """
        if self._memory is None:
            return None
        if kept := self.in_memory(key, max_age_s=max_age_s):
            return kept
        for distance, tier in enumerate(self._far):
            removals = self._removals
            found = await tier.get(key)
            if found is None or (kept := _kept(found, tier.tier, max_age_s)) is None:
                continue
            self._hits[tier.tier] += 1
            if removals == self._removals:
                self._memory.put(key, found)
                for nearer in self._far[:distance]:
                    nearer.put(key, found)
            return kept
        return None

    def put(self, key: bytes, value: bytes) -> None:
        """Keep an answer in all tiers, in place of the one before; returns at once.

        Args:
            key: 32 bytes: the SHA-256 of all that decides the answer.
            value: the whole answer.
        """
        assert len(key) == KEY_BYTES
        if self._memory is None:
            return
        entry = Entry(value, time.time())
        self._memory.put(key, entry)
        for tier in self._far:
            tier.put(key, entry)

    def remove(self, key: bytes) -> None:
        """Forget an answer in all tiers; returns at once."""
        self._removals += 1
        if self._memory is not None:
            self._memory.remove(key)
        for tier in self._far:
            tier.remove(key)

    async def clear(self) -> tuple[int, int]:
        """Forget all answers in all tiers.

        Returns:
            Entries that were forgotten, and their bytes, of the tier that had most: the nearer ones have the same.
        """
        if self._memory is None:
            return 0, 0
        forgotten = [self._memory.size()]
        self._memory.clear()
        # The nearer ones after the farther ones, from which they are given what is read meanwhile.
        for tier in reversed(self._far):
            self._removals += 1
            forgotten.append(await tier.clear())
        self._removals += 1
        self._memory.clear()
        return max(forgotten)


def memory_for_answers(settings: CachingSettings) -> int:
    """Return the memory for kept answers, bytes; 0 if none is kept."""
    return int(min(settings.cache_mb * (1 << 20), MOST_OF_MEMORY * memory_limit()))


def _secret(path: str) -> bytes:
    try:
        secret = Path(path).read_bytes().strip()
    except OSError as error:
        raise SettingsError(f"--cache-secret-file {path} cannot be read: {error.strerror}") from None
    if len(secret) < LEAST_SECRET_BYTES:
        raise SettingsError(f"--cache-secret-file {path} must hold at least {LEAST_SECRET_BYTES} bytes")
    return secret


def _shared_tier(url: str, secret: bytes) -> SharedTier:
    try:
        return SharedTier(url, secret)
    except ImportError:
        raise SettingsError("--cache-shared needs the library `valkey`: pip install valkey") from None
    except ValueError as error:
        raise SettingsError(f"--cache-shared is wrong: {error}") from None


def _kept(entry: Entry | None, tier: Tier, max_age_s: float | None) -> Kept | None:
    if entry is None or (max_age_s is not None and entry.age_s > max_age_s):
        return None
    return Kept(entry.value, entry.age_s, tier)
