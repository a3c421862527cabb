"""Turns a request into a job, with every field in its range."""

from __future__ import annotations

from skills.runtime.pictures.tiles import TILE
from skills.runtime.status import RefusedError

from . import image_pb2
from .jobs import Job

DEFAULT_MIN_PIXELS = 64 * TILE**2
DEFAULT_MAX_PIXELS = 1024 * TILE**2
MOST_PIXELS = 16_777_216
"""Qwen3-VL's own limit."""
DEFAULT_QUALITY = 85
MOST_DISTANCE = 16
_ENCODINGS = {
    image_pb2.ENCODING_UNSPECIFIED: "png",
    image_pb2.ENCODING_PNG: "png",
    image_pb2.ENCODING_WEBP_LOSSLESS: "webp-lossless",
    image_pb2.ENCODING_WEBP: "webp",
}


def to_job(request: image_pb2.NormalizeRequest, *, decode_pixels: int) -> Job:
    """Return what to make of the picture.

    Raises:
        RefusedError: A field is out of its range.
    """
    encoding = _ENCODINGS.get(request.encoding)
    if encoding is None:
        raise RefusedError(f"is {request.encoding}, which is no Encoding", field="encoding")
    least = _number(request, "min_pixels", DEFAULT_MIN_PIXELS, TILE**2, MOST_PIXELS)
    most = _number(request, "max_pixels", DEFAULT_MAX_PIXELS, TILE**2, MOST_PIXELS)
    if least > most and request.HasField("min_pixels"):
        raise RefusedError(f"is {least}, more than max_pixels, which is {most}", field="min_pixels")
    quality = _number(request, "quality", DEFAULT_QUALITY, 1, 100)
    _number(request, "similar_within", 0, 0, MOST_DISTANCE)
    return Job(
        min_pixels=min(least, most),
        max_pixels=most,
        encoding=encoding,
        # What makes no difference must not make another key of the cache.
        quality=quality if encoding == "webp" else 0,
        decode_pixels=decode_pixels,
    )


def _number(request: image_pb2.NormalizeRequest, name: str, default: int, low: int, high: int) -> int:
    if not request.HasField(name):  # type: ignore[arg-type]  # its type is the literal names
        return default
    value = int(getattr(request, name))
    if not low <= value <= high:
        raise RefusedError(f"is {value}; it must be from {low} to {high}", field=name)
    return value
