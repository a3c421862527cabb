"""What is clear becomes white, what is half clear half white: every mode with every kind of transparency.

The files are written sample by sample, and what they must become is composed in floating point.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from PIL import Image

from skills.skill_image.jobs import Job
from skills.skill_image.normalizing import normalize
from tests.pictures import bmp, decoded, encoded, png, tiff

WIDE, HIGH = SIZE = 64, 32  # whole tiles: nothing is resized
JOB = Job(min_pixels=1024, max_pixels=1 << 20, encoding="png", quality=85, decode_pixels=1 << 22)
Array = np.ndarray[Any, Any]
Case = tuple[bytes, Array, Array]
"""A file, and its colours and alphas from 0 to 1."""
GREY, RGB, PALETTE, LA, RGBA = 0, 2, 3, 4, 6
"""PNG's colour types, with the number of samples that a pixel has."""
CHANNELS = {GREY: 1, RGB: 3, PALETTE: 1, LA: 2, RGBA: 4}


def noise(channels: int, bits: int) -> Array:
    """Samples, all values of them equally often, in rows and columns."""
    return np.random.default_rng(channels * 100 + bits).integers(0, 1 << bits, (HIGH, WIDE, channels))


def packed(samples: Array, bits: int, order: str = ">") -> list[bytes]:
    """The rows as files hold them."""
    flat = samples.reshape(HIGH, -1)
    if bits == 16:
        return [row.astype(f"{order}u2").tobytes() for row in flat]
    each = (flat[:, :, None] >> np.arange(bits - 1, -1, -1)) & 1
    return [row.tobytes() for row in np.packbits(each.reshape(HIGH, -1).astype(np.uint8), axis=1)]


def png_of(samples: Array, bits: int, colour: int, *before: tuple[bytes, bytes]) -> bytes:
    return png(WIDE, HIGH, bits, colour, b"".join(b"\0" + row for row in packed(samples, bits)), *before)


def opaque(samples: Array) -> Array:
    return np.ones(samples.shape[:2])


def png_alpha(colour: int, bits: int) -> Case:
    """Samples of alpha in every pixel."""
    samples = noise(CHANNELS[colour], bits)
    parts = samples / ((1 << bits) - 1)
    return png_of(samples, bits, colour), parts[..., :-1], parts[..., -1]


def png_key(colour: int, bits: int, key: tuple[int, ...], *, also: int = 0) -> Case:
    """One colour is clear. Half of the pixels are near it: one bit of one sample apart, or not at all.

    Args:
        also: bits of the chunk's values that the picture's samples do not have.
    """
    samples = noise(len(key), bits)
    flips = np.array([0, *(1 << bit for bit in range(bits))])
    near = np.random.default_rng(1).choice(flips, samples.shape)
    lone = np.arange(len(key)) == np.random.default_rng(2).integers(0, len(key), (HIGH, WIDE, 1))
    samples[:, ::2] = (np.array(key) ^ np.where(lone, near, 0))[:, ::2]
    chunk = (b"tRNS", np.array([value | also for value in key], ">u2").tobytes())
    alpha = (samples != np.array(key)).any(axis=2)
    return png_of(samples, bits, colour, chunk), samples / ((1 << bits) - 1), alpha.astype(float)


def png_palette(bits: int, alphas: bytes) -> Case:
    """Some entries of the palette have an alpha, the first ones."""
    samples, palette = noise(1, bits), np.random.default_rng(3).integers(0, 256, (1 << bits, 3))
    every = np.frombuffer(alphas[: 1 << bits].ljust(1 << bits, b"\xff"), np.uint8)
    file = png_of(samples, bits, PALETTE, (b"PLTE", palette.astype(np.uint8).tobytes()), (b"tRNS", alphas))
    return file, palette[samples[..., 0]] / 255, every[samples[..., 0]] / 255


def tiff_alpha(channels: int, bits: int, *, premultiplied: bool = False) -> Case:
    """Grey or RGB, and alpha."""
    samples = noise(channels, bits)
    most = (1 << bits) - 1
    if premultiplied:
        samples[..., :-1] = samples[..., :-1] * samples[..., -1:] // most
    parts = samples / most
    file = tiff(
        SIZE, b"".join(packed(samples, bits, "<")), (bits,) * channels, 2 if channels == 4 else 1,
        extra=(1 if premultiplied else 2,),
    )  # fmt: skip
    alpha = parts[..., -1:]
    colours = np.divide(parts[..., :-1], alpha, where=alpha > 0, out=np.zeros_like(parts[..., :-1]))
    return file, colours if premultiplied else parts[..., :-1], alpha[..., 0]


def tiff_palette() -> Case:
    """Indices, and alpha."""
    samples, palette = noise(2, 8), np.random.default_rng(4).integers(0, 256, (256, 3))
    colours = tuple(int(value) * 257 for value in palette.T.ravel())
    file = tiff(SIZE, b"".join(packed(samples, 8)), (8, 8), 3, extra=(2,), colours=colours)
    return file, palette[samples[..., 0]] / 255, samples[..., 1] / 255


def bmp_alpha() -> Case:
    samples = noise(4, 8)
    file = bmp(SIZE, samples[::-1, :, [2, 1, 0, 3]].astype(np.uint8).tobytes())
    return file, samples[..., :3] / 255, samples[..., 3] / 255


def webp_alpha(**options: object) -> Case:
    samples = noise(4, 8).astype(np.uint8)
    file = encoded(Image.fromarray(samples), "WEBP", lossless=True, exact=True, **options)
    return file, samples[..., :3] / 255, samples[..., 3] / 255


def gif_index(palette: Array) -> Case:
    """One index is clear."""
    samples = noise(1, 4)
    picture = Image.fromarray(samples[..., 0].astype(np.uint8))
    picture.putpalette(palette.astype(np.uint8).tobytes())
    file = encoded(picture, "GIF", transparency=5)
    return file, palette[samples[..., 0]] / 255, (samples[..., 0] != 5).astype(float)


MIXED, LONE = bytes(range(3, 256, 5)), b"\xff\xff\x00"
CASES: dict[str, Callable[[], Case]] = {
    **{f"PNG grey {bits}, a clear value": partial(png_key, GREY, bits, (1,)) for bits in (1, 2, 4, 8, 16)},
    "PNG grey 1, black is clear": lambda: png_key(GREY, 1, (0,)),
    "PNG grey 2, white is clear": lambda: png_key(GREY, 2, (3,)),
    "PNG grey 4, a clear value and bits above it": lambda: png_key(GREY, 4, (9,), also=0xA0),
    "PNG grey 8, a clear value and bits above it": lambda: png_key(GREY, 8, (9,), also=0xA00),
    "PNG grey 16, black is clear": lambda: png_key(GREY, 16, (0,)),
    "PNG grey 16, a clear value in both bytes": lambda: png_key(GREY, 16, (0x1234,)),
    "PNG RGB 8, a clear colour": lambda: png_key(RGB, 8, (1, 2, 3)),
    "PNG RGB 8, a clear colour and bits above it": lambda: png_key(RGB, 8, (1, 2, 3), also=0x500),
    "PNG RGB 16, a clear colour": lambda: png_key(RGB, 16, (0x1234, 0x5678, 0x9ABC)),
    "PNG RGB 16, black is clear": lambda: png_key(RGB, 16, (0, 0, 0)),
    "PNG LA 8": lambda: png_alpha(LA, 8),
    "PNG LA 16": lambda: png_alpha(LA, 16),
    "PNG RGBA 8": lambda: png_alpha(RGBA, 8),
    "PNG RGBA 16": lambda: png_alpha(RGBA, 16),
    **{f"PNG palette {bits}, mixed": partial(png_palette, bits, MIXED[: 1 << bits]) for bits in (1, 2, 4, 8)},
    **{f"PNG palette {bits}, one is clear": partial(png_palette, bits, LONE) for bits in (2, 4, 8)},
    "PNG palette 8, more alphas than colours": lambda: png_palette(8, MIXED * 10),
    "TIFF LA 8": lambda: tiff_alpha(2, 8),
    "TIFF LA 8, premultiplied": lambda: tiff_alpha(2, 8, premultiplied=True),
    "TIFF RGBA 8": lambda: tiff_alpha(4, 8),
    "TIFF RGBA 8, premultiplied": lambda: tiff_alpha(4, 8, premultiplied=True),
    "TIFF RGBA 16": lambda: tiff_alpha(4, 16),
    "TIFF RGBA 16, premultiplied": lambda: tiff_alpha(4, 16, premultiplied=True),
    "TIFF palette 8 with alpha": tiff_palette,
    "BMP RGBA 8": bmp_alpha,
    "WebP RGBA 8": webp_alpha,
    "WebP RGBA 8, animated": lambda: webp_alpha(save_all=True, append_images=[Image.new("RGBA", SIZE, "red")]),
    "GIF colours, a clear index": lambda: gif_index(np.random.default_rng(5).integers(0, 256, (16, 3))),
    "GIF greys, a clear index": lambda: gif_index(np.arange(256)[:, None].repeat(3, axis=1)),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_clear_becomes_white_as_far_as_it_is_clear(name: str) -> None:
    file, colours, alpha = CASES[name]()
    found = np.asarray(decoded(normalize(file, JOB)[1])).astype(float)
    wanted = 255 * (colours * alpha[..., None] + 1 - alpha[..., None])
    # 16 bits are cut to their upper eight, alpha and all; and premultiplied ones are divided.
    most = 3 if "16" in name or "premultiplied" in name else 1
    assert np.abs(found - wanted).max() <= most
