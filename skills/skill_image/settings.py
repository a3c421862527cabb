"""The settings of the image skill, in addition to those of every skill's server."""

from __future__ import annotations

from dataclasses import dataclass

from skills.runtime.settings import WorkerSettings, setting


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSettings(WorkerSettings):
    """The settings of an image skill."""

    queue: int = setting(
        8, "most calls that wait, each with its picture; others are refused with RESOURCE_EXHAUSTED", low=0, high=1000
    )  # fmt: skip
    max_message_mb: float = setting(16.0, "largest request, MiB", low=0.01, high=1024)
    max_image_mb: float = setting(12.0, "largest encoded picture, MiB", low=0.01, high=1024)
    decode_pixels: int = setting(
        24_000_000, "most pixels of a picture; each takes up to 16 bytes of memory",
        low=1024, high=1 << 30,
    )  # fmt: skip
    decode_timeout_s: float = setting(20.0, "most time for one picture, seconds", low=0.05, high=3600)
    cache_mb: float = setting(32.0, "size of the cache, MiB; 0: none", low=0, high=65536)
