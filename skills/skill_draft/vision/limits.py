"""What the vision process takes, and what an image may be. The server imports this, and no Pillow."""

from __future__ import annotations

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
"""Pillow's names of the formats that are read."""
MIN_TOKENS, MAX_TOKENS = 8, 1024
"""Image tokens that an image is read as. The tower's own minimum is 8,192 pixels."""
MOST_PIXELS = 40_000_000
"""An image of more pixels is not decoded, whatever its format."""
DECODING_BYTES = 160_000_000
"""The most memory that decoding an image takes."""

# Bytes that decoding takes for each pixel, measured by the peak of a process with images of 40,000,000 pixels.
_PIXEL_BYTES = {"png": 9.2, "jpeg": 2.4, "progressive jpeg": 6.7, "webp": 15.4, "gif": 5.3, "bmp": 4.8}


def most_pixels(kind: str) -> int:
    """Return how many pixels an image of a format may have to be decoded within `DECODING_BYTES`."""
    return min(MOST_PIXELS, int(DECODING_BYTES / _PIXEL_BYTES[kind]))
