"""The images of requests, on the server's side: which files it has, what they are read as, and their rows."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import grpc

from skills.runtime.resources import usable_cpus
from skills.runtime.status import RefusedError
from skills.wire import IMAGE_RESOURCE

from .engine.messages import Image, Request
from .image_rows import ImageRows, Source
from .model_file import TowerFile
from .request_images import ImagePart, with_images
from .rows_memory import RowsMemory
from .settings import Settings
from .tower_choice import largest_image_bytes, vision_bytes
from .uploads import Upload, Uploads
from .vision_process import VISION_MODULE, BadImageError, Vision, VisionConfig, VisionError

_MIB = 1 << 20
_TOKEN_S, _TOKEN_WIDTH = 0.02, 1024
"""Time of encoding an image token with a tower of this width, until it is measured: that of the 4B's."""
_DELIMITERS = 2  # tokens before and after an image


class Images:
    """The images of requests.

    Args:
        settings: The server's settings.
        model: The language model's file.
        tower: The vision tower's file.
        module: The module that a vision process runs.
    """

    def __init__(self, settings: Settings, model: Path, tower: TowerFile, *, module: str = VISION_MODULE) -> None:
        self._settings, self._tower = settings, tower
        self._memory = RowsMemory(max(rows_bytes(settings, tower), largest_image_bytes(tower)))
        self._uploads = Uploads(int(settings.uploads_mb * _MIB))
        self._model = model
        self._hashing: asyncio.Task[str] | None = None
        self._vision = Vision(
            self._config,
            read_timeout_s=settings.read_timeout_s,
            encode_timeout_s=settings.encode_timeout_s,
            idle_s=settings.vision_idle_s,
            module=module,
        )
        token_s = _TOKEN_S * tower.width / _TOKEN_WIDTH
        self.rows = ImageRows(self._memory, self._vision, row_width=tower.row_width, token_s=token_s)
        self._held = 0
        self.seen = 0
        """Images of requests since the start."""

    @property
    def pids(self) -> tuple[int, ...]:
        """The vision process, if there is one."""
        return self._vision.pids

    @property
    def rows_path(self) -> str:
        """Path of the rows memory."""
        return self._memory.path

    @property
    def reserved_bytes(self) -> int:
        """The memory that images take at most, besides the cells that the engine has for them."""
        return reserved_bytes(self._settings, self._tower)

    def begin(self) -> None:
        """Begin with what takes time: the hash of the vision tower's file, a part of every image's key."""
        self._hashing = asyncio.create_task(asyncio.to_thread(_hash_file, self._tower.path))

    async def _config(self) -> VisionConfig:
        assert self._hashing is not None, "begun before any request is taken"
        try:
            digest = await asyncio.shield(self._hashing)
        except OSError as error:
            raise VisionError(f"cannot read {self._tower.path}: {error.strerror}") from error
        return VisionConfig(
            model=str(self._model), mmproj=str(self._tower.path), mmproj_sha256=digest,
            row_width=self._tower.row_width, rows_path=self._memory.path,
            threads=max(1, (self._settings.threads or usable_cpus()) // 2),
        )  # fmt: skip

    async def close(self) -> None:
        """End all work and all processes."""
        if self._hashing:
            self._hashing.cancel()
        await self._vision.close()
        await self.rows.close()

    @asynccontextmanager
    async def held(self, request: Request, parts: Sequence[ImagePart], n_ctx: int) -> AsyncIterator[Request]:
        """Read the images of a request, and keep them as long as the context lasts.

        Args:
            request: With `UNREAD` images in its turns.
            parts: Those images, in the same order.
            n_ctx: The context length, tokens.

        Yields:
            The request with its images.

        Raises:
            RefusedError: One is not here, is no image, or they are too large together.
        """
        if self._held >= self._settings.queue + self._settings.slots:
            full = grpc.StatusCode.RESOURCE_EXHAUSTED
            raise RefusedError("this replica has as many requests with images as it may", code=full, retry_after_s=1)
        self._held += 1
        pinned: list[Upload] = []
        try:
            uploads = await self._take(parts, pinned)
            images: list[Image] = []
            for upload, part in zip(uploads, parts, strict=True):
                images.append(await self._read(upload, part))
                _check_size(images, n_ctx)  # after each: none is decoded that cannot fit any more
            self.seen += len(images)
            self.rows.enter(request.id, _sources(images, uploads, parts))
            yield with_images(request, images)
        finally:
            self._held -= 1
            self.rows.leave(request.id)
            for upload in pinned:
                self._uploads.release(upload)

    async def _take(self, parts: Sequence[ImagePart], pinned: list[Upload]) -> list[Upload]:
        """Return the files of images. Each is pinned as soon as it is appended to `pinned`."""
        found: dict[int, Upload] = {}
        missing: dict[str, None] = {}
        # Those with bytes come first: another part may name the same image by its hash.
        for i, part in sorted(enumerate(parts), key=lambda entry: not entry[1].data):
            upload = await self._uploads.add(part.data) if part.data else self._uploads.take(part.sha256)
            if upload is None:
                missing[part.sha256.hex()] = None
            else:
                pinned.append(upload)
                found[i] = upload
        if missing:
            raise RefusedError(
                f"this server does not have {len(missing)} of the images: send their bytes",
                code=grpc.StatusCode.NOT_FOUND,
                missing=[(IMAGE_RESOURCE, digest) for digest in missing],
            )
        return [found[i] for i in range(len(parts))]

    async def _read(self, upload: Upload, part: ImagePart) -> Image:
        if (known := self._uploads.read_as(upload, part.max_tokens)) is not None:
            return known
        try:
            image = await self._vision.read(upload.data, part.max_tokens)
        except BadImageError as error:
            upload.useless = True
            raise RefusedError(str(error), field=part.field) from error
        except VisionError as error:
            raise RefusedError(f"no image can be read: {error}", code=grpc.StatusCode.INTERNAL) from error
        self._uploads.note(upload, part.max_tokens, image)
        return image


def rows_bytes(settings: Settings, tower: TowerFile) -> int:
    """Return the size of the rows memory: the setting, or enough for two of the largest images."""
    return max(int(settings.rows_mb * _MIB), largest_image_bytes(tower) * (1 if settings.rows_mb else 2))


def reserved_bytes(settings: Settings, tower: TowerFile) -> int:
    """Return the memory that images take at most, besides the cells that the engine has for them."""
    return vision_bytes(tower) + rows_bytes(settings, tower) + int(settings.uploads_mb * _MIB)


def _sources(images: Sequence[Image], uploads: Sequence[Upload], parts: Sequence[ImagePart]) -> dict[bytes, Source]:
    return {
        image.key: Source(image=image, data=upload.data, max_tokens=part.max_tokens, field=part.field)
        for image, upload, part in zip(images, uploads, parts, strict=True)
    }


def _check_size(images: Sequence[Image], n_ctx: int) -> None:
    n_tokens = sum(image.n_tokens + _DELIMITERS for image in images)
    if n_tokens > n_ctx:
        raise RefusedError(
            f"has images of {n_tokens} tokens or more, and the context has {n_ctx}: send fewer, or lower max_tokens",
            field="messages",
        )


def _hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
