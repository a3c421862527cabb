"""The image skill's server: gRPC on one side, worker processes on the other.

python server.py                      # from this folder; serves on 127.0.0.1:50061
python -m skills.skill_image.server   # from the repository root
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # run as `python server.py`: make `skills` importable
    sys.path[0] = str(Path(__file__).resolve().parents[2])
    __package__ = "skills.skill_image"

import hashlib
import os
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import grpc

from skills.runtime.child_process import ChildGoneError
from skills.runtime.pictures.errors import BadPictureError, Fault
from skills.runtime.pictures.tiles import TILE
from skills.runtime.program import run_server
from skills.runtime.skill import Context, StartError, WorkerSkill
from skills.runtime.status import RefusedError

from . import VERSION, image_pb2, image_pb2_grpc
from .cache import Entry, PictureCache, cache_key
from .jobs import Job
from .requests import to_job
from .settings import ImageSettings
from .workers import Workers

if TYPE_CHECKING:
    from skills.runtime.metrics import Reading

PORT = 50061
MIB = 1 << 20
SERVICE = "skills.skill_image.ImageService"
CODES: dict[Fault, grpc.StatusCode] = {
    "invalid": grpc.StatusCode.INVALID_ARGUMENT,
    "too_large": grpc.StatusCode.RESOURCE_EXHAUSTED,
}


class ImageSkill(WorkerSkill, image_pb2_grpc.ImageServiceServicer):
    """`ImageService` over worker processes and a cache."""

    services: Sequence[str] = (SERVICE,)

    def __init__(self, settings: ImageSettings) -> None:
        super().__init__(settings, name="image", version=VERSION)
        self._settings = settings
        self._workers = Workers(timeout_s=settings.decode_timeout_s)
        self._cache = PictureCache(max_bytes=int(settings.cache_mb * MIB))

    def register(self, server: grpc.aio.Server) -> None:
        """Add `ImageService`."""
        image_pb2_grpc.add_ImageServiceServicer_to_server(self, server)

    async def prepare(self) -> None:
        """Start a worker."""
        try:
            await self._workers.warm_up()
        except OSError as error:
            raise StartError(f"a worker cannot be started: {error}") from error

    async def close(self) -> None:
        """End the workers."""
        await self._workers.close()

    def pids(self) -> Iterable[int]:
        """Return the server and its workers."""
        return (os.getpid(), *self._workers.pids)

    async def Normalize(  # noqa: N802 - gRPC's name
        self, request: image_pb2.NormalizeRequest, context: Context
    ) -> image_pb2.NormalizeResponse:
        """Return the picture as a vision model takes it."""
        begin_s = time.monotonic()
        async with self.call(context):
            job = to_job(request, decode_pixels=self._settings.decode_pixels)
            if len(request.image) > self._settings.max_image_mb * MIB:
                message = f"has {len(request.image)} bytes; at most {self._settings.max_image_mb:g} MiB are taken"
                raise RefusedError(message, code=grpc.StatusCode.RESOURCE_EXHAUSTED, field="image")
            digest = hashlib.sha256(request.image).digest()
            key = cache_key(digest, job)
            found = self._cache.get(key)
            entry = found or await self._decode(request.image, digest, job)
            self._cache.put(key, entry)
            answer = _answer(entry, cached=found is not None)
            if request.HasField("similar_within"):
                near = self._cache.similar(entry.picture.perceptual_hash, request.similar_within, other_than=digest)
                answer.similar.extend(
                    image_pb2.SimilarImage(source_sha256=other, distance=apart) for apart, other in near
                )
            answer.latency_ms = (time.monotonic() - begin_s) * 1000
            return answer
        raise AssertionError("a call ends with an answer or a status")

    async def _decode(self, image: bytes, digest: bytes, job: Job) -> Entry:
        try:
            async with self.work.slot():
                picture, encoded = await self._workers.normalize(image, job)
        except BadPictureError as error:
            raise RefusedError(str(error), code=CODES[error.fault], field=error.field) from error
        except ChildGoneError as error:
            self.log.warning("the picture with the SHA-256 %s ended its worker: %s", digest.hex(), error.ended)
            raise RefusedError(
                "ended the decoder that had it", code=grpc.StatusCode.INTERNAL, field="image"
            ) from error  # fmt: skip
        except TimeoutError as error:
            message = f"takes longer to decode than {self._settings.decode_timeout_s:g} s"
            raise RefusedError(message, code=grpc.StatusCode.RESOURCE_EXHAUSTED, field="image") from error
        return Entry(source_sha256=digest, picture=picture, encoded=encoded)

    def readings(self) -> list[Reading]:
        """Return the figures of cache and workers."""
        from skills.runtime.metrics import Reading

        return [
            Reading("sarai_image_cache_hits_total", "Answers from the cache", float(self._cache.hits)),
            Reading("sarai_image_cache_misses_total", "Pictures that were not in the cache", float(self._cache.misses)),
            Reading("sarai_image_cache_bytes", "Size of the cache", float(self._cache.num_bytes)),
            Reading("sarai_image_decoders", "Decoder processes", float(len(self._workers.pids))),
        ]


def _answer(entry: Entry, *, cached: bool) -> image_pb2.NormalizeResponse:
    picture = entry.picture
    return image_pb2.NormalizeResponse(
        image=entry.encoded,
        media_type=picture.media_type,
        width=picture.width,
        height=picture.height,
        tiles=picture.width * picture.height // TILE**2,
        perceptual_hash=picture.perceptual_hash,
        source_sha256=entry.source_sha256,
        source_format=picture.source_format,
        source_width=picture.source_width,
        source_height=picture.source_height,
        orientation=picture.orientation,
        animated=picture.animated,
        cached=cached,
    )


if __name__ == "__main__":
    sys.exit(run_server(ImageSkill, ImageSettings, name="image", port=PORT))
