"""The settings of the image skill, beside those of every skill's server."""

from __future__ import annotations

from dataclasses import dataclass

from skills.runtime.settings import WorkerSettings, setting


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSettings(WorkerSettings):
    """How an image skill runs."""

    queue: int = setting(
        8, "calls that wait at most, each with its picture; one more is answered RESOURCE_EXHAUSTED", low=0, high=1000
    )  # fmt: skip
    max_message_mb: float = setting(16.0, "largest request, MiB", low=0.01, high=1024)
    max_image_mb: float = setting(12.0, "largest picture as it is sent, MiB", low=0.01, high=1024)
    decode_pixels: int = setting(
        24_000_000, "a picture of more pixels is not decoded; it takes up to 16 bytes of memory for each",
        low=1024, high=1 << 30,
    )  # fmt: skip
    decode_timeout_s: float = setting(20.0, "how long one picture may take, seconds", low=0.05, high=3600)
    cache_mb: float = setting(32.0, "pictures that are kept, MiB; 0: none", low=0, high=65536)
