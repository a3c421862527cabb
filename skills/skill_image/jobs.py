"""What a worker is asked and what it answers. Light: the server imports it, and no Pillow."""

from __future__ import annotations

from dataclasses import dataclass

WORKER_MODULE = "skills.skill_image.worker"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What is wanted of a picture."""

    min_pixels: int
    """At least so many pixels in the answer."""
    max_pixels: int
    """At most so many."""
    encoding: str
    """`png`, `webp-lossless` or `webp`."""
    quality: int
    """Of `webp`, 1 to 100."""
    decode_pixels: int
    """A picture of more pixels than this is not decoded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """What became of it."""

    media_type: str
    width: int
    height: int
    perceptual_hash: int
    """See `phash`."""
    source_format: str
    """In small letters: `jpeg`."""
    source_width: int
    """Pixels as stored."""
    source_height: int
    """Pixels as stored."""
    orientation: int
    """EXIF, 1 to 8."""
    animated: bool
    """This is the first frame of several."""
