from __future__ import annotations

import dataclasses

import pytest

from skills.skill_image.cache import Entry, PictureCache, cache_key
from skills.skill_image.jobs import Job, Picture

JOB = Job(min_pixels=1024, max_pixels=4096, encoding="png", quality=0, decode_pixels=1 << 20)


def entry(number: int, *, size: int = 1000, perceptual_hash: int = 0) -> Entry:
    picture = Picture(
        media_type="image/png", width=32, height=32, perceptual_hash=perceptual_hash, source_format="png",
        source_width=32, source_height=32, orientation=1, animated=False,
    )  # fmt: skip
    return Entry(source_sha256=number.to_bytes(32), picture=picture, encoded=bytes(size))


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Job)])
def test_every_wish_makes_another_key(field: str) -> None:
    other = "webp" if field == "encoding" else 7
    assert cache_key(bytes(32), JOB) != cache_key(bytes(32), dataclasses.replace(JOB, **{field: other}))  # type: ignore[arg-type]
    assert cache_key(bytes(32), JOB) != cache_key(bytes(31) + b"x", JOB)


def test_cache_never_holds_more_bytes_than_it_may() -> None:
    cache = PictureCache(max_bytes=20_000)
    for number in range(100):
        cache.put(number.to_bytes(2), entry(number, size=number * 37))
        assert cache.num_bytes <= 20_000
    assert cache.get((99).to_bytes(2)) is not None


def test_least_recently_used_goes_first() -> None:
    cache = PictureCache(max_bytes=10_000)
    for number in range(3):
        cache.put(number.to_bytes(2), entry(number))
    assert cache.get((0).to_bytes(2)) is not None
    cache.put((3).to_bytes(2), entry(3))
    assert cache.get((1).to_bytes(2)) is None
    assert cache.get((0).to_bytes(2)) is not None


def test_what_is_larger_than_the_cache_is_not_kept_and_nothing_goes_for_it() -> None:
    cache = PictureCache(max_bytes=5000)
    cache.put(b"small", entry(1))
    cache.put(b"large", entry(2, size=5001))
    assert cache.get(b"small") is not None
    assert cache.get(b"large") is None


def test_cache_of_no_bytes_keeps_nothing() -> None:
    cache = PictureCache(max_bytes=0)
    cache.put(b"key", entry(1, size=0))
    assert cache.get(b"key") is None


def test_similar_ones_come_nearest_first_without_the_picture_itself() -> None:
    cache = PictureCache(max_bytes=1 << 20)
    for number, bits in enumerate((0b0, 0b1, 0b111, 0xFFFF)):
        cache.put(bytes([number]), entry(number, perceptual_hash=bits))
    cache.put(b"other wishes", entry(1, perceptual_hash=0b1))
    found = cache.similar(0, 3, other_than=(0).to_bytes(32))
    assert found == [(1, (1).to_bytes(32)), (3, (2).to_bytes(32))]
