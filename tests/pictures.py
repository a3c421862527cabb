"""Pictures for tests, in every format and with every fault."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

from PIL import ExifTags, Image, ImageCms

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)

# In the EXIF standard's words: the sides to which the first stored row and the first stored column belong.
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
    """Return a picture as a file of this format."""
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


def decoded(image: bytes) -> Image.Image:
    """Return the picture in a file."""
    picture = Image.open(io.BytesIO(image))
    picture.load()
    return picture


def quarters(width: int = 128, height: int = 64) -> Image.Image:
    """Return a picture with four quarters: red, green; blue, white."""
    picture = Image.new("RGB", (width, height), RED)
    picture.paste(GREEN, (width // 2, 0, width, height // 2))
    picture.paste(BLUE, (0, height // 2, width // 2, height))
    picture.paste(WHITE, (width // 2, height // 2, width, height))
    return picture


def corners(picture: Image.Image) -> list[object]:
    """Return the colours at the centres of the four quarters, row by row."""
    width, height = picture.size
    places = [(x, y) for y in (height // 4, 3 * height // 4) for x in (width // 4, 3 * width // 4)]
    return [picture.getpixel(place) for place in places]


def turned(picture: Image.Image, orientation: int) -> bytes:
    """Return a PNG with the picture as a camera stores it with this EXIF orientation."""
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
    """Return EXIF data that has only an orientation."""
    about = Image.Exif()
    about[ExifTags.Base.Orientation] = orientation
    return about.tobytes()


def png_header(width: int, height: int) -> bytes:
    """Return a PNG that declares this size, but contains only a few bytes."""
    return png(width, height, 8, 2, b"\0" * 64)


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *before: tuple[bytes, bytes]) -> bytes:
    """Return a PNG, built as the standard describes.

    Args:
        width: pixels.
        height: pixels.
        depth: bits per sample.
        colour: the standard's colour type.
        rows: the rows, each with its filter byte.
        before: kind and content of chunks that come before the pixels.
    """
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = [(b"IHDR", head), *before, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return PNG_SIGNATURE + b"".join(chunk(kind, content) for kind, content in chunks)


def chunk(kind: bytes, content: bytes) -> bytes:
    """Return a chunk of a PNG."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def chunks(image: bytes) -> list[tuple[bytes, bytes]]:
    """Return kind and content of each chunk of a PNG."""
    found, at = [], len(PNG_SIGNATURE)
    while at < len(image):
        (length,) = struct.unpack_from(">I", image, at)
        found.append((image[at + 4 : at + 8], image[at + 8 : at + 8 + length]))
        at += 12 + length
    return found


def with_chunks(image: bytes, *added: bytes, at: int = 1) -> bytes:
    """Return a PNG with chunks inserted before its chunk number `at`."""
    parts = [chunk(kind, content) for kind, content in chunks(image)]
    return PNG_SIGNATURE + b"".join([*parts[:at], *added, *parts[at:]])


def wrong_checksum(part: bytes) -> bytes:
    """Return a chunk with a wrong checksum."""
    return part[:-1] + bytes([part[-1] ^ 1])


def tiff(
    size: tuple[int, int],
    samples: bytes,
    bits: tuple[int, ...],
    photometric: int,
    *,
    extra: tuple[int, ...] = (),
    colours: tuple[int, ...] = (),
) -> bytes:
    """Return a little-endian, uncompressed TIFF with one strip.

    Args:
        size: width and height, pixels.
        samples: pixel by pixel.
        bits: of each sample of a pixel.
        photometric: what the samples mean: 1 grey, 2 RGB, 3 indices of a palette.
        extra: what further samples mean: 1 premultiplied alpha, 2 alpha.
        colours: the palette, 16 bits per value, all reds first.
    """
    wide, high = size
    tags = {256: (wide,), 257: (high,), 258: bits, 259: (1,), 262: (photometric,), 273: (8,), 277: (len(bits),)}
    tags |= {278: (high,), 279: (len(samples),), 320: colours, 338: extra}
    tags = {tag: values for tag, values in sorted(tags.items()) if values}
    place = 8 + len(samples)
    behind = place + 6 + 12 * len(tags)
    directory, far = struct.pack("<H", len(tags)), b""
    for tag, values in tags.items():
        kind, letter = (4, "I") if tag in (273, 279) else (3, "H")
        packed = struct.pack(f"<{len(values)}{letter}", *values)
        directory += struct.pack("<HHI", tag, kind, len(values))
        directory += packed.ljust(4, b"\0") if len(packed) <= 4 else struct.pack("<I", behind + len(far))
        far += packed if len(packed) > 4 else b""
    return b"II*\0" + struct.pack("<I", place) + samples + directory + bytes(4) + far


def bmp(size: tuple[int, int], pixels: bytes) -> bytes:
    """Return a BMP of 32 bits per pixel, in the order blue, green, red, alpha, the bottom row first."""
    masks = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    head = (
        struct.pack("<IiiHHIIiiII", 108, *size, 1, 32, 3, len(pixels), 2835, 2835, 0, 0) + masks + b"BGRs" + bytes(48)
    )
    return b"BM" + struct.pack("<IHHI", 14 + len(head) + len(pixels), 0, 0, 14 + len(head)) + head + pixels


def animated(kind: str, first: Image.Image | None = None) -> bytes:
    """Return an animation with two frames: the quarters or another picture, then all blue."""
    first = first or quarters()
    second = Image.new("RGB", first.size, BLUE)
    options = {"lossless": True} if kind == "WEBP" else {}
    return encoded(first, kind, save_all=True, append_images=[second], duration=100, **options)


def gif_frame(width: int, height: int) -> bytes:
    """Return a GIF of one pixel, whose frame declares this size and is to be cleared afterwards."""
    return (
        b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + bytes(6) + b"!\xf9\4\x08\0\0\0\0"
        + b"," + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\2\2\x44\1\0;"
    )  # fmt: skip


def gradient(width: int = 128, height: int = 64) -> Image.Image:
    """Return a gradient from black on the left to white on the right."""
    return Image.linear_gradient("L").rotate(90).resize((width, height)).convert("RGB")


def swapped_profile() -> bytes:
    """Return sRGB's profile with red and blue exchanged: a decoder that applies it shows red pixels as blue."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert profile.count(b"rXYZ") == profile.count(b"bXYZ") == 1
    return profile.replace(b"rXYZ", b"____").replace(b"bXYZ", b"rXYZ").replace(b"____", b"bXYZ")


def near(found: object, wanted: tuple[int, int, int]) -> bool:
    """Return whether two colours look the same."""
    assert isinstance(found, tuple)
    return all(abs(a - b) <= 3 for a, b in zip(found, wanted, strict=True))
