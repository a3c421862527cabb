"""Reduce a PNG to the chunks that determine the picture, before Pillow reads it.

Pillow refuses an intact picture because of a long text, a long colour profile, or a wrong checksum of a chunk without
pixels. So unneeded chunks are dropped, and those that the standard calls critical must be correct.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

from PIL import PngImagePlugin

from .errors import BadPictureError

SIGNATURE = b"\x89PNG\r\n\x1a\n"
MOST_INFLATED = 16 << 20
"""The most bytes of a decompressed colour profile, as many as a JPEG can hold. A longer profile is ignored."""
PngImagePlugin.MAX_TEXT_CHUNK = MOST_INFLATED  # `_inflates` has checked the texts that get there

_GREY, _RGB, _PALETTE = 0, 2, 3
_CRITICAL = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
# The first of each is kept. The texts may contain the orientation: XMP, and EXIF as written before eXIf existed.
_TEXTS = (b"XML:com.adobe.xmp", b"Raw profile type exif")
_WANTED = (b"tRNS", b"iCCP", b"eXIf", b"acTL", *_TEXTS)
# The factor by which Pillow scales samples, by their depth.
_SCALE = {1: 255, 2: 85, 4: 17}


def lean(image: bytes) -> bytes:
    """Return the same picture with only the chunks that matter. Checksums are checked in critical chunks only.

    Raises:
        BadPictureError: A critical chunk is broken, unknown, cut off or missing.
    """
    chunks = _chunks(image)
    kind, header = next(chunks, (b"", b""))
    if kind != b"IHDR" or len(header) != 13:
        raise BadPictureError("is broken or cut off: a PNG must begin with an IHDR chunk of 13 bytes")
    before, pixels, seen = [_chunk(b"IHDR", header)], [], set[bytes]()
    for kind, content in chunks:
        if kind == b"IDAT":
            pixels.append(content)
        elif kind == b"PLTE":
            before.append(_chunk(kind, content))
        elif kind == b"IHDR":
            raise BadPictureError("is broken: it has a second IHDR chunk")
        elif (name := _name(kind, content)) in _WANTED and name not in seen:
            seen.add(name)
            if useful := _useful(kind, content, depth=header[8], colour=header[9]):
                before.append(_chunk(kind, useful))
    if not pixels:
        raise BadPictureError("is broken or cut off: it has no IDAT chunk")
    return b"".join([SIGNATURE, *before, _chunk(b"IDAT", b"".join(pixels)), _chunk(b"IEND", b"")])


def _chunks(image: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield kind and content of the chunks up to IEND, or up to a broken or cut off chunk after the pixels."""
    at, pixels = len(SIGNATURE), False
    while True:
        length, kind = struct.unpack(">I4s", image[at : at + 8].ljust(8, b"\0"))
        if kind == b"IEND" or (pixels and not kind.isalpha()):
            return
        if not kind.isalpha():
            raise BadPictureError("is broken or cut off before its pixels")
        content, checksum = image[at + 8 : at + 8 + length], image[at + 8 + length : at + 12 + length]
        if len(checksum) < 4 and pixels and kind != b"IDAT":
            return
        _check(kind, content, checksum)
        yield kind, content
        pixels = pixels or kind == b"IDAT"
        at += 12 + length


def _check(kind: bytes, content: bytes, checksum: bytes) -> None:
    if len(checksum) < 4:
        raise BadPictureError(f"is broken or cut off: its {kind.decode()} chunk is not whole")
    if not kind[:1].isupper():
        return
    if kind not in _CRITICAL:
        raise BadPictureError(f"has a critical chunk of an unknown kind: {kind.decode()}")
    if int.from_bytes(checksum) != zlib.crc32(content, zlib.crc32(kind)):
        raise BadPictureError(f"is broken: its {kind.decode()} chunk has a wrong checksum")


def _name(kind: bytes, content: bytes) -> bytes:
    """Return the kind of a chunk, or the keyword of a text."""
    return content.partition(b"\0")[0] if kind in (b"tEXt", b"zTXt", b"iTXt") else kind


def _useful(kind: bytes, content: bytes, *, depth: int, colour: int) -> bytes:
    """Return the content that Pillow is to see; empty if the chunk is of no use."""
    value = content.partition(b"\0")[2]
    match kind:
        case b"tRNS":
            return _clear(content, depth, colour)
        case b"acTL":
            return content if int.from_bytes(content[:4]) > 1 and len(content) == 8 else b""
        case b"iCCP" | b"zTXt":
            return content if _inflates(value) else b""
        case b"iTXt":
            return content if value.startswith(b"\0") else b""  # XMP is never compressed
    return content


def _clear(content: bytes, depth: int, colour: int) -> bytes:
    """Return the clear colour in Pillow's samples, without bits that the file's do not have; or a palette's alphas."""
    if colour == _PALETTE:
        return content[:256]
    channels = {_GREY: 1, _RGB: 3}.get(colour, 0)
    if len(content) < 2 * channels:
        return b""
    values = struct.unpack_from(f">{channels}H", content)
    most, scale = (1 << depth) - 1, _SCALE.get(depth, 1)
    return struct.pack(f">{channels}H", *((value & most) * scale for value in values))


def _inflates(value: bytes) -> bool:
    """Return whether a value is deflated, after a byte that says so, and is not too long."""
    inflating = zlib.decompressobj()
    try:
        inflating.decompress(value[1:], MOST_INFLATED)
    except zlib.error:
        return False
    return value[:1] == b"\0" and not inflating.unconsumed_tail


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + zlib.crc32(content, zlib.crc32(kind)).to_bytes(4)
