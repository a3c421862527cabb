"""Scale an image down before it travels. The one file of `core` that imports Pillow.

What Pillow cannot scale travels as it is: the skill decides what it reads, and knows more about odd files.
"""

from __future__ import annotations

import io
import math
import warnings

from PIL import Image, ImageOps

_KEPT = ("L", "LA", "RGB", "RGBA", "CMYK", "I;16")
"""Modes that can be scaled and saved."""


class BrokenImageError(Exception):
    """An image cannot be decoded or encoded; the text follows its name."""


def scaled(data: bytes, format_: str, room: int, *, small_bytes: int) -> bytes:
    """Return an image file with at most `room` pixels, or the file itself if it is small.

    Args:
        data: The file.
        format_: Its format, as in `core.images.kinds`.
        room: How many pixels are enough.
        small_bytes: A file of at most this size with at most twice these pixels stays as it is.

    Raises:
        BrokenImageError: It is broken or cut off, or has far too many pixels.
    """
    try:
        with _quiet(), Image.open(io.BytesIO(data), formats=[format_.upper()]) as source:
            return _scaled(source, data, room, small_bytes)
    except Image.DecompressionBombError as error:
        raise BrokenImageError(f"has more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels") from error
    except Exception as error:  # its decoders raise whatever a broken file leads to
        if format_ == "PNG":  # Pillow refuses intact ones too, for example for a long text
            return data
        raise BrokenImageError(f"is broken or cut off ({error})") from error


def encoded(image: Image.Image, room: int) -> bytes:
    """Return an image of Pillow's as a PNG with at most `room` pixels.

    Raises:
        BrokenImageError: It has no pixels, is of a cut off file, or of a mode that Pillow does not convert.
        TypeError: It is none.
    """
    if not isinstance(image, Image.Image):
        raise TypeError(f"an image is a path, bytes, or an image of Pillow's, not {type(image).__name__}")
    if not all(image.size):
        raise BrokenImageError("has no pixels")
    try:
        if image.mode == "CMYK":
            image = image.convert("RGB")
        return _save(_upright(image, _size(image.size, room)), "PNG", image.info.get("icc_profile"))
    except Exception as error:  # as for files, which are decoded only now
        raise BrokenImageError(f"cannot be made a PNG ({error})") from error


def _scaled(source: Image.Image, data: bytes, room: int, small_bytes: int) -> bytes:
    many = math.prod(source.size) > 2 * room
    if len(data) <= small_bytes and not many:
        source.load()  # shows whether it is broken
        return data
    lossy = data.startswith(b"\xff\xd8")
    size = _size(source.size, room)
    source.draft(None, (2 * size[0], 2 * size[1]))  # decodes a JPEG at a half, a quarter or an eighth
    profile = source.info.get("icc_profile")
    smaller = _save(_upright(source, size), "JPEG" if lossy else "PNG", profile)
    return smaller if many or len(smaller) < len(data) else data


def _size(size: tuple[int, int], room: int) -> tuple[int, int]:
    """Return a size with the same sides' ratio and at most `room` pixels, never a larger one."""
    width, height = size
    scale = min(1.0, math.sqrt(room / (width * height)))
    return max(1, int(width * scale)), max(1, int(height * scale))


def _upright(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Return an image in this size, turned as its EXIF data say."""
    if image.mode not in _KEPT or "transparency" in image.info:
        clear = "transparency" in image.info or image.mode in ("PA", "La", "RGBa")
        image = image.convert("RGBA" if clear else "L" if image.mode == "1" else "RGB")
    if image.size != size:
        image = image.resize(size, Image.Resampling.LANCZOS)
    return ImageOps.exif_transpose(image)


def _save(image: Image.Image, format_: str, profile: bytes | None) -> bytes:
    image.info = {}  # nothing else of the file, such as where the photo was taken
    file = io.BytesIO()
    # The options of each format are the other one's unknown words, which are ignored.
    image.save(file, format_, icc_profile=profile, quality=95, subsampling=0)
    return file.getvalue()


def _quiet() -> warnings.catch_warnings[None]:
    """Return a context without Pillow's warnings of many pixels: large photos are what this is for."""
    return warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning)
