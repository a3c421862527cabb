"""What is kept of an answer, and what keeps it."""

from __future__ import annotations

import enum
import time
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol

KEY_BYTES = 32


class Tier(enum.IntEnum):
    """What keeps answers, the nearest first; the values of the contract's `CacheTier`."""

    MEMORY = 1
    DISK = 2
    SHARED = 3


@dataclass(frozen=True, slots=True)
class Kept:
    """A kept answer, as it was found.

    Args:
        value: what was put there.
        age_s: time since it was computed, seconds.
        tier: where it was found.
    """

    value: bytes
    age_s: float
    tier: Tier


class Entry(NamedTuple):
    """A value and when it was computed, in seconds of the wall clock: entries outlive processes and cross hosts."""

    value: bytes
    made_s: float

    @property
    def age_s(self) -> float:
        """The time since then; 0 where the clock was set back."""
        return max(0.0, time.time() - self.made_s)


class FarTier(Protocol):
    """A tier that is not this process's memory. It may be slow or gone, and then it has nothing: no method raises."""

    tier: ClassVar[Tier]

    async def start(self) -> None:
        """Get ready; it may take a while until it is."""

    async def close(self) -> None:
        """Write what waits to be written, for a moment at most, and release everything."""

    async def get(self, key: bytes) -> Entry | None:
        """Return what is there under a key."""

    def put(self, key: bytes, entry: Entry) -> None:
        """Write an entry, sooner or later; returns at once."""

    def remove(self, key: bytes) -> None:
        """Remove an entry, sooner or later; returns at once."""

    async def clear(self) -> tuple[int, int]:
        """Remove all entries; return how many they were, and their bytes."""
