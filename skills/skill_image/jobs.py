"""The requests to a worker and its answers. Light, as the server imports this and not Pillow."""

from __future__ import annotations

from dataclasses import dataclass

WORKER_MODULE = "skills.skill_image.worker"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """How to normalise a picture."""

    min_pixels: int
    """The fewest pixels of the answer."""
    max_pixels: int
    """The most pixels of the answer."""
    encoding: str
    """`png`, `webp-lossless` or `webp`."""
    quality: int
    """Quality of `webp`, 1 to 100."""
    decode_pixels: int
    """The most pixels of a picture; larger ones are not decoded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """The result."""

    media_type: str
    width: int
    height: int
    perceptual_hash: int
    """See `phash`."""
    source_format: str
    """Lower case: `jpeg`."""
    source_width: int
    """Pixels as stored."""
    source_height: int
    """Pixels as stored."""
    orientation: int
    """EXIF orientation, 1 to 8."""
    animated: bool
    """Whether this is the first frame of several."""
