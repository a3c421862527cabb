"""Pictures for tests: in every format, with every fault."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

from PIL import ExifTags, Image

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)

# The EXIF standard's own words: where the first stored row and the first stored column belong.
SIDES = {
    1: ("top", "left"),
    2: ("top", "right"),
    3: ("bottom", "right"),
    4: ("bottom", "left"),
    5: ("left", "top"),
    6: ("right", "top"),
    7: ("right", "bottom"),
    8: ("left", "bottom"),
}


def encoded(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """The file."""
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


def decoded(image: bytes) -> Image.Image:
    """The picture of a file."""
    picture = Image.open(io.BytesIO(image))
    picture.load()
    return picture


def quarters(width: int = 128, height: int = 64) -> Image.Image:
    """Red, green; blue, white."""
    picture = Image.new("RGB", (width, height), RED)
    picture.paste(GREEN, (width // 2, 0, width, height // 2))
    picture.paste(BLUE, (0, height // 2, width // 2, height))
    picture.paste(WHITE, (width // 2, height // 2, width, height))
    return picture


def corners(picture: Image.Image) -> list[object]:
    """What is in the midst of the four quarters, row by row."""
    width, height = picture.size
    places = [(x, y) for y in (height // 4, 3 * height // 4) for x in (width // 4, 3 * width // 4)]
    return [picture.getpixel(place) for place in places]


def turned(picture: Image.Image, orientation: int) -> bytes:
    """A PNG that holds the picture as a camera stores it with this EXIF orientation."""
    row_at, column_at = SIDES[orientation]
    size = picture.size if orientation < 5 else picture.size[::-1]
    stored = Image.new("RGB", size)
    for row in range(size[1]):
        for column in range(size[0]):
            down = row if row_at in ("top", "left") else size[1] - 1 - row
            across = column if column_at in ("top", "left") else size[0] - 1 - column
            at = (across, down) if row_at in ("top", "bottom") else (down, across)
            stored.putpixel((column, row), picture.getpixel(at))  # type: ignore[arg-type]  # a pixel it is
    return encoded(stored, exif=exif(orientation))


def exif(orientation: int) -> bytes:
    """EXIF with an orientation alone."""
    about = Image.Exif()
    about[ExifTags.Base.Orientation] = orientation
    return about.tobytes()


def png_header(width: int, height: int) -> bytes:
    """A PNG that says it is so large, and holds a few bytes."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + _chunk(b"IDAT", zlib.compress(b"\0" * 64)) + _chunk(b"IEND", b"")
    )


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def animated(kind: str) -> bytes:
    """Two frames: the quarters, then all blue."""
    second = Image.new("RGB", (128, 64), BLUE)
    options = {"lossless": True} if kind == "WEBP" else {}
    return encoded(quarters(), kind, save_all=True, append_images=[second], duration=100, **options)


def gradient(width: int = 128, height: int = 64) -> Image.Image:
    """From black on the left to white on the right."""
    return Image.linear_gradient("L").rotate(90).resize((width, height)).convert("RGB")
