"""What a file is, by its content; its name says nothing."""

from __future__ import annotations

import codecs

READ = "PNG, JPEG, WebP, GIF and BMP"
"""The formats that skills read, in words."""

_FORMATS = (
    (0, b"\x89PNG\r\n\x1a\n", "PNG"),
    (0, b"\xff\xd8\xff", "JPEG"),
    (8, b"WEBP", "WebP"),
    (0, b"GIF87a", "GIF"),
    (0, b"GIF89a", "GIF"),
    (0, b"BM", "BMP"),
)
# What people try, the more special first.
_FOREIGN = (
    (4, b"ftyphe", "a HEIC image"),
    (4, b"ftypmif1", "a HEIC image"),
    (4, b"ftypavi", "an AVIF image"),
    (4, b"ftyp", "a video"),
    (4, b"JXL ", "a JPEG XL image"),
    (0, b"\xff\x0a", "a JPEG XL image"),
    (4, b"jP  ", "a JPEG 2000 image"),
    (0, b"II*\0", "a TIFF image"),
    (0, b"MM\0*", "a TIFF image"),
    (0, b"\0\0\1\0", "an icon (ICO)"),
    (0, b"8BPS", "a Photoshop file"),
    (0, b"%PDF", "a PDF"),
    (0, b"%!PS", "a PostScript file"),
    (0, b"PK\3\4", "a ZIP archive or an office document"),
    (0, b"\x1f\x8b", "gzip data"),
    (0, b"GGUF", "a model file"),
)
_HEAD = 1024


def format_of(data: bytes) -> str | None:
    """Return the format of an image file, None if it is not one that skills read."""
    return _first(data, _FORMATS)


def foreign_kind(data: bytes) -> str:
    """Return in words what a file is that skills do not read."""
    return _first(data, _FOREIGN) or _kind_of_text(data[:_HEAD]) or "no image that is known here"


def _first(data: bytes, kinds: tuple[tuple[int, bytes, str], ...]) -> str | None:
    return next((kind for at, magic, kind in kinds if data.startswith(magic, at)), None)


def _kind_of_text(head: bytes) -> str | None:
    """Return what a text is, None if it is none."""
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(head)  # its last character may be cut off
    except UnicodeDecodeError:
        return None
    if "\0" in text:
        return None
    start = text.lstrip("\ufeff \t\r\n").lower()
    if start.startswith(("<!doctype html", "<html")):
        return "a web page, perhaps in place of a download that failed"
    return "an SVG drawing" if "<svg" in start else "a text"
