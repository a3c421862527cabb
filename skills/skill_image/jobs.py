"""What a worker is asked, and what it answers. The server imports this, and no Pillow."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What to make of a picture."""

    min_pixels: int
    """Minimum number of pixels in the answer."""
    max_pixels: int
    """Maximum number of pixels in the answer."""
    encoding: str
    """`png`, `webp-lossless` or `webp`."""
    quality: int
    """Quality of `webp`, 1 to 100."""
    decode_pixels: int
    """A picture of more pixels is not decoded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A picture that was made of it."""

    media_type: str
    width: int
    height: int
    perceptual_hash: int
    """See `phash`."""
    source_format: str
    """In lower case: `jpeg`."""
    source_width: int
    """Pixels as stored."""
    source_height: int
    """Pixels as stored."""
    orientation: int
    """EXIF orientation, 1 to 8."""
    animated: bool
    """Whether this is the first of several frames."""
