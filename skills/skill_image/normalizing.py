"""Convert the bytes of any picture to those of one that a vision model can use directly. Independent of gRPC."""

from __future__ import annotations

import io

from PIL import Image

from skills.runtime.pictures.errors import BadPictureError
from skills.runtime.pictures.reading import PictureFile
from skills.runtime.pictures.tiles import tiled_size

from .jobs import Job, Picture
from .phash import perceptual_hash

MOST_WEBP_SIDE = 16_383
"""The format's limit, in pixels."""


def normalize(image: bytes, job: Job) -> tuple[Picture, bytes]:
    """Return the picture upright, in sRGB on white, in whole tiles, encoded.

    Raises:
        BadPictureError: It is not a picture, is broken, has too many pixels, or a side too long for WebP.
        MemoryError: It takes more memory than there is.
    """
    file = PictureFile(image, decode_pixels=job.decode_pixels)
    file.decode()
    size = tiled_size(*file.size, min_pixels=job.min_pixels, max_pixels=job.max_pixels)
    _check_encoding(*size, job.encoding)
    picture = file.scaled(size, Image.Resampling.LANCZOS)
    media_type, encoded = _encode(picture, job)
    about = Picture(
        media_type=media_type,
        width=size[0],
        height=size[1],
        perceptual_hash=perceptual_hash(picture),
        source_format=file.format,
        source_width=file.stored_size[0],
        source_height=file.stored_size[1],
        orientation=file.orientation,
        animated=file.animated,
    )
    return about, encoded


def _check_encoding(width: int, height: int, encoding: str) -> None:
    if encoding != "png" and max(width, height) > MOST_WEBP_SIDE:
        raise BadPictureError(
            f"is WebP, whose sides have at most {MOST_WEBP_SIDE} pixels, and the picture would be {width} x {height}: "
            "ask for ENCODING_PNG, or for fewer max_pixels",
            field="encoding",
        )


def _encode(picture: Image.Image, job: Job) -> tuple[str, bytes]:
    out = io.BytesIO()
    picture.info = {}  # otherwise Pillow would write the original profile
    match job.encoding:
        case "webp-lossless":
            picture.save(out, "WEBP", lossless=True, method=2, exact=True)
        case "webp":
            picture.save(out, "WEBP", quality=job.quality, method=4)
        case _:
            picture.save(out, "PNG")
            return "image/png", out.getvalue()
    return "image/webp", out.getvalue()
