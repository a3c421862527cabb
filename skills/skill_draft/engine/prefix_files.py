"""Blocks of prefixes as files: a bounded folder that engines share and that outlives them.

A file gets its name when it is complete, so what a killed engine leaves is never read. Its checksum is verified before
each use, so damaged bytes are a miss; that is also why nothing is synced to the disk. Files are only ever replaced or
removed, never changed, so other engines may have them mapped. The time of modification is that of the last use.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import stat
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .prefix_folder import SUFFIX, UNFINISHED
from .private_folder import locked, make_private
from .tokens import Bytes

_MAGIC = b"SARAIKV1"
# Magic, CRC-32 of all that follows, key, number of bytes.
_HEADER = struct.Struct("<8sI32sQ")
_CHECKED_FROM = 12
_ORDER_NS = 1000  # between the blocks of a chain: the first ones are used last, and so are removed last


class MappedBlock:
    """The cells of a block, mapped from its file and verified."""

    __slots__ = ("__weakref__", "data")

    def __init__(self, data: Bytes) -> None:
        self.data = data


class PrefixFiles:
    """The files of a folder. All methods may be called by any thread, and by several processes at once."""

    def __init__(self, folder: Path, limit: int) -> None:
        """Keep at most `limit` bytes of files in a folder, which is created if it is missing.

        Raises:
            FolderError: The folder is not this user's, others may use it, or it cannot be created.
        """
        self._folder, self._limit = folder, limit
        make_private(folder)

    def has(self, key: bytes) -> bool:
        """Return whether there is a file for a block, whatever it contains."""
        try:
            return stat.S_ISREG(self._path(key).stat().st_mode)
        except OSError:
            return False

    def read(self, key: bytes) -> MappedBlock | None:
        """Map a block and verify it; None if there is none. A damaged file is removed."""
        path = self._path(key)
        try:
            with path.open("rb") as file:
                whole = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) if os.fstat(file.fileno()).st_size else b""
        except OSError:  # gone or unreadable
            return None
        if _is_whole(whole, key):
            return MappedBlock(np.frombuffer(whole, np.uint8, offset=_HEADER.size))
        with contextlib.suppress(OSError):
            path.unlink()
        return None

    def touch(self, keys: Sequence[bytes], used_ns: int) -> None:
        """Note when the blocks of a chain, in their order, were used."""
        for i, key in enumerate(keys):
            with contextlib.suppress(OSError):
                os.utime(self._path(key), ns=_times(used_ns, i))

    def write(self, key: bytes, data: Bytes, *, index: int, used_ns: int) -> bool:
        """Add a block and remove the least recently used ones that exceed the bound.

        Args:
            key: Its key.
            data: Its cells.
            index: Its place in its chain.
            used_ns: When the chain was used, nanoseconds of `time.time_ns`.

        Returns:
            Whether it is there now. It is not if there is no room without removing what was used later, or if another
            engine holds the folder for long.

        Raises:
            OSError: The disk is full, or does not let this process write.
        """
        checked = key + len(data).to_bytes(8, "little")
        head = _HEADER.pack(_MAGIC, zlib.crc32(data.data, zlib.crc32(checked)), key, len(data))
        with locked(self._folder) as held:
            times = _times(used_ns, index)
            if not held or not self._make_room(len(head) + len(data), before_ns=times[1]):
                return False
            partial = self._path(key).with_suffix(UNFINISHED)
            try:
                descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                try:
                    for part in (head, data.data):
                        _write_all(descriptor, part)
                finally:
                    os.close(descriptor)
                os.utime(partial, ns=times)
                partial.rename(self._path(key))
            except OSError:
                partial.unlink(missing_ok=True)
                raise
        return True

    def _path(self, key: bytes) -> Path:
        return self._folder / f"{key.hex()}{SUFFIX}"

    def _make_room(self, size: int, before_ns: int) -> bool:
        """Remove what killed engines have left, and the least recently used files until `size` more bytes fit.

        Returns:
            Whether they fit. Files that were used at `before_ns` or later stay.
        """
        files: list[tuple[int, int, str]] = []
        with os.scandir(self._folder) as entries:
            for entry in entries:
                if entry.name.endswith(UNFINISHED):  # nobody else writes now
                    Path(entry.path).unlink(missing_ok=True)
                elif entry.name.endswith(SUFFIX):
                    with contextlib.suppress(FileNotFoundError):  # another engine has found it damaged
                        about = entry.stat(follow_symlinks=False)
                        files.append((about.st_mtime_ns, about.st_size, entry.path))
        excess = sum(size for _, size, _ in files) + size - self._limit
        removable = sorted(file for file in files if file[0] < before_ns)
        if excess > sum(freed for _, freed, _ in removable):
            return False
        for _, freed, path in removable:
            if excess <= 0:
                break
            Path(path).unlink(missing_ok=True)
            excess -= freed
        return True


def _times(used_ns: int, index: int) -> tuple[int, int]:
    """Return the times of access and modification of a chain's block."""
    at = used_ns - index * _ORDER_NS
    return at, at


def _is_whole(whole: mmap.mmap | bytes, key: bytes) -> bool:
    if len(whole) < _HEADER.size:
        return False
    magic, checksum, its_key, size = _HEADER.unpack_from(whole)
    if (magic, its_key, size) != (_MAGIC, key, len(whole) - _HEADER.size):
        return False
    return bool(zlib.crc32(memoryview(whole)[_CHECKED_FROM:]) == checksum)


def _write_all(descriptor: int, data: bytes | memoryview) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
