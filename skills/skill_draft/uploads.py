"""The image files that callers have sent, by the SHA-256 of their bytes, so that each is sent once."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from dataclasses import dataclass

from .engine.messages import Image

_MEMO_ENTRIES = 4096


@dataclass(slots=True, eq=False)
class Upload:
    """An image file."""

    sha256: bytes
    data: bytes
    pins: int = 0
    """Requests that use it. It stays as long as there are any."""
    useless: bool = False
    """Whether it has turned out to be no image, so that it need not stay longer."""


class Uploads:
    """Image files, bounded in bytes; the least recently used go first.

    Args:
        max_bytes: Bytes of all files together, except those in use.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._files: OrderedDict[bytes, Upload] = OrderedDict()
        self._read_as: OrderedDict[tuple[bytes, int], Image] = OrderedDict()
        self.num_bytes = 0

    async def add(self, data: bytes) -> Upload:
        """Store a file, under the hash that is computed here, and pin it."""
        digest = await asyncio.to_thread(lambda: hashlib.sha256(data).digest())  # 16 MiB take some 10 ms
        if (known := self.take(digest)) is not None:
            return known
        upload = self._files[digest] = Upload(digest, data, pins=1)
        self.num_bytes += len(data)
        self._make_room()
        return upload

    def take(self, sha256: bytes) -> Upload | None:
        """Return a file and pin it; None if it is not here."""
        upload = self._files.get(sha256)
        if upload is not None:
            upload.pins += 1
            self._files.move_to_end(sha256)
        return upload

    def release(self, upload: Upload) -> None:
        """Release a pin, from `add` or `take`."""
        upload.pins -= 1
        if upload.useless and not upload.pins:
            self._remove(upload)
        self._make_room()

    def read_as(self, upload: Upload, max_tokens: int) -> Image | None:
        """Return what an image is read as, if that is known."""
        return self._read_as.get((upload.sha256, max_tokens))

    def note(self, upload: Upload, max_tokens: int, image: Image) -> None:
        """Remember what an image is read as, also after its file has gone."""
        self._read_as[upload.sha256, max_tokens] = image
        if len(self._read_as) > _MEMO_ENTRIES:
            self._read_as.popitem(last=False)

    def _make_room(self) -> None:
        for upload in [upload for upload in self._files.values() if not upload.pins]:
            if self.num_bytes <= self._max_bytes:
                return
            self._remove(upload)

    def _remove(self, upload: Upload) -> None:
        if self._files.pop(upload.sha256, None):
            self.num_bytes -= len(upload.data)
