"""The shared memory that holds encoded images: the vision process writes into it, the engine reads from it.

It is one file in memory (memfd) of a fixed size. It belongs to the server, and so survives the deaths of both. Rows
stay after they are read, for the next request with the same image; the least recently used ones make room for others.
"""

from __future__ import annotations

import mmap
import os
from collections import OrderedDict
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field

_PAGE = mmap.PAGESIZE


@dataclass(slots=True, eq=False)
class Region:
    """A part of the memory that holds the rows of one image."""

    offset: int
    size: int
    """Whole pages, bytes."""
    whole: bool = False
    """Whether the rows are all there."""
    pins: set[Hashable] = field(default_factory=set)
    """Those for whom it must stay."""


class RowsMemory:
    """Regions of the memory by the keys of their images.

    Args:
        size: Bytes of the memory, rounded up to whole pages.
    """

    def __init__(self, size: int) -> None:
        self.size = _pages(size)
        self._descriptor = os.memfd_create("rows", os.MFD_CLOEXEC)
        os.ftruncate(self._descriptor, self.size)
        self._mapped = mmap.mmap(self._descriptor, self.size)
        self._regions: OrderedDict[bytes, Region] = OrderedDict()  # the least recently used first

    @property
    def path(self) -> str:
        """Path under which other processes of this user open it while this process lives."""
        return f"/proc/{os.getpid()}/fd/{self._descriptor}"

    @property
    def used(self) -> int:
        """Bytes that are taken."""
        return sum(region.size for region in self._regions.values())

    def close(self) -> None:
        """Release this process's hold on the memory."""
        self._mapped.close()
        os.close(self._descriptor)

    def find(self, key: bytes) -> Region | None:
        """Return the region of an image whose rows are all there, which counts as a use."""
        region = self._regions.get(key)
        if region is None or not region.whole:
            return None
        self._regions.move_to_end(key)
        return region

    def allocate(self, key: bytes, size: int) -> Region | None:
        """Return a new region for an image that has none. Unpinned ones make room for it.

        Returns:
            The region, which is not `whole` yet; None if pinned ones leave no room.
        """
        size = _pages(size)
        pinned = [region for region in self._regions.values() if region.pins]
        if not any(end - start >= size for start, end in self._gaps(pinned)):
            return None
        while (offset := self._first_gap(size)) is None:
            self.free(next(key for key, region in self._regions.items() if not region.pins))
        region = self._regions[key] = Region(offset, size)
        return region

    def free(self, key: bytes) -> None:
        """Give the memory of a region back to the system."""
        region = self._regions.pop(key)
        self._mapped.madvise(mmap.MADV_REMOVE, region.offset, region.size)

    def unpin(self, holder: Hashable, key: bytes | None = None) -> None:
        """Release the pin that a holder has on a region, or all of its pins. Idempotent."""
        for region in [self._regions.get(key)] if key is not None else list(self._regions.values()):
            if region is not None:
                region.pins.discard(holder)

    def _first_gap(self, size: int) -> int | None:
        gaps = self._gaps(list(self._regions.values()))
        return next((start for start, end in gaps if end - start >= size), None)

    def _gaps(self, regions: list[Region]) -> Iterator[tuple[int, int]]:
        """Yield begin and end of what lies between regions."""
        at = 0
        for region in sorted(regions, key=lambda region: region.offset):
            yield at, region.offset
            at = region.offset + region.size
        yield at, self.size


def _pages(size: int) -> int:
    return -(-size // _PAGE) * _PAGE
