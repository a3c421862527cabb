"""Photographs as cameras and programs write them: the vision tower gets what they show, and each is answered.

What they show is computed by another decoder, by formulas, or is known because the test wrote the file.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from skills.skill_draft.vision.pixels import read_pixels
from tests.photographs import ANIMATED, CLEAR, NAMES, Picture, photograph, read_by_stb, resized
from tests.pictures import encoded, exif, png
from tests.servers import draft_server
from tests.system.test_images import ask

MAX_TOKENS = 576
Floats = npt.NDArray[np.float64]


def opened(name: str) -> Image.Image:
    """Return a photograph in RGB, to write it in another way."""
    return Image.open(io.BytesIO(photograph(name))).convert("RGB")


def shown(name: str) -> Picture:
    """Return what a photograph shows."""
    pixels = read_by_stb(photograph(name))
    if name == "rocket.jpg":
        return from_adobe_rgb(pixels)
    return from_dot_gain(pixels, photograph(name)) if name == "page.png" else pixels


def from_adobe_rgb(pixels: Picture) -> Picture:
    """Convert from Adobe RGB (1998), by the matrices of the two standards."""
    to_xyz = [[0.57667, 0.18556, 0.18823], [0.29734, 0.62736, 0.07529], [0.02703, 0.07069, 0.99134]]
    from_xyz = [[3.24045, -1.53714, -0.49853], [-0.96927, 1.87601, 0.04156], [0.05564, -0.20403, 1.05723]]
    return to_srgb((pixels / 255) ** 2.19921875 @ (np.array(from_xyz) @ np.array(to_xyz)).T)


def from_dot_gain(pixels: Picture, file: bytes) -> Picture:
    """Convert from the grey of a printer, by the curve in the file's profile."""
    profile = Image.open(io.BytesIO(file)).info["icc_profile"]
    at = profile.index(b"curv")
    (length,) = struct.unpack_from(">I", profile, at + 8)
    curve = np.array(struct.unpack_from(f">{length}H", profile, at + 12)) / 65535
    return to_srgb(np.interp(pixels / 255, np.linspace(0, 1, length), curve))


def to_srgb(light: Floats) -> Picture:
    light = np.clip(light, 0, 1)
    stored = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return np.asarray(255 * stored).round().astype(np.uint8)


def on_white(picture: Image.Image) -> Picture:
    colours, alpha = np.split(np.asarray(picture, np.float64), [3], axis=2)
    return np.asarray((colours * alpha + 255 * (255 - alpha)) / 255).round().astype(np.uint8)


def in_16_bits(picture: Image.Image) -> bytes:
    """Return a PNG with samples of 16 bits."""
    samples = (np.asarray(picture).astype(np.uint16) * 256 + 77).astype(">u2")
    channels = 2 if samples.ndim == 3 else 0
    return png(*picture.size, 16, channels, b"".join(b"\0" + row.tobytes() for row in samples))


def faded(picture: Image.Image) -> Image.Image:
    """Return the picture with an alpha channel that grows from left to right."""
    picture.putalpha(Image.linear_gradient("L").rotate(90).resize(picture.size))
    return picture


def by_camera(orientation: int, **options: Any) -> bytes:
    """Return a photograph of a camera that was held in another way: 6 and 8 are its sides, 3 is upside down."""
    turns = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
    return encoded(opened("coffee.png").transpose(turns[orientation]), "JPEG", exif=exif(orientation), **options)


def animation(kind: str, **options: Any) -> bytes:
    frames = [opened(name).resize((300, 200)) for name in ("motorcycle_left.png", "motorcycle_right.png", "coffee.png")]
    return encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)


def coffee() -> Picture:
    return shown("coffee.png")


def first_frame() -> Picture:
    return np.asarray(opened("motorcycle_left.png").resize((300, 200)))


WRITTEN: dict[str, tuple[Callable[[], bytes], Callable[[], Picture], float]] = {
    "JPEG, held to the right": (lambda: by_camera(6, quality=95), coffee, 4),
    "JPEG, held to the left": (lambda: by_camera(8, quality=95), coffee, 4),
    "JPEG, upside down and progressive": (lambda: by_camera(3, quality=95, progressive=True), coffee, 4),
    "JPEG, progressive": (lambda: encoded(opened("coffee.png"), "JPEG", quality=95, progressive=True), coffee, 4),
    "JPEG, CMYK": (lambda: encoded(opened("coffee.png").convert("CMYK"), "JPEG", quality=95), coffee, 4),
    "JPEG, grey": (
        lambda: encoded(opened("camera.png").convert("L"), "JPEG", quality=95), lambda: shown("camera.png"), 3,
    ),
    "PNG, 16 bits": (lambda: in_16_bits(opened("coffee.png")), coffee, 2),
    "PNG, 16 bits, grey": (lambda: in_16_bits(opened("camera.png").convert("L")), lambda: shown("camera.png"), 2),
    "PNG, palette": (
        lambda: encoded(opened("coffee.png").quantize(256)),
        lambda: np.asarray(opened("coffee.png").quantize(256).convert("RGB")), 2,
    ),
    "PNG, alpha": (lambda: encoded(faded(opened("coffee.png"))), lambda: on_white(faded(opened("coffee.png"))), 2),
    "WebP": (lambda: encoded(opened("coffee.png"), "WEBP", quality=95), coffee, 5),
    "WebP, lossless, alpha": (
        lambda: encoded(faded(opened("coffee.png")), "WEBP", lossless=True, exact=True),
        lambda: on_white(faded(opened("coffee.png"))), 2,
    ),
    "WebP, animated": (lambda: animation("WEBP", lossless=True), first_frame, 3),
    "GIF, animated": (lambda: animation("GIF"), first_frame, 12),
    "BMP": (lambda: encoded(opened("coffee.png"), "BMP"), coffee, 2),
    "BMP, palette": (
        lambda: encoded(opened("coffee.png").quantize(256), "BMP"),
        lambda: np.asarray(opened("coffee.png").quantize(256).convert("RGB")), 2,
    ),
}  # fmt: skip


def check(file: bytes, wanted: Picture, most_mean: float, most_token: float) -> None:
    """Compare the pixels on average, and the mean colour of each image token."""
    pixels = read_pixels(file, MAX_TOKENS)
    width, height = pixels.size
    ours = np.frombuffer(pixels.data, np.uint8).reshape(height, width, 3).astype(np.float64)
    theirs = resized(wanted, width, height)
    assert (width > height) == (wanted.shape[1] > wanted.shape[0])
    assert np.abs(ours - theirs).mean() <= most_mean
    assert np.abs(token_colours(ours) - token_colours(theirs)).max() <= most_token


def token_colours(pixels: Floats) -> Floats:
    height, width, _ = pixels.shape
    return np.asarray(pixels.reshape(height // 32, 32, width // 32, 32, 3).mean((1, 3)))


@pytest.mark.parametrize("name", NAMES)
def test_photograph_is_read_as_another_decoder_reads_it(name: str) -> None:
    check(photograph(name), shown(name), 1.5, 1)


@pytest.mark.parametrize("name", CLEAR)
def test_what_is_clear_is_white(name: str) -> None:
    check(photograph(name), on_white(Image.open(io.BytesIO(photograph(name)))), 1.5, 1)


@pytest.mark.parametrize("how", WRITTEN)
def test_photograph_is_the_same_however_it_is_written(how: str) -> None:
    write, wanted, most_mean = WRITTEN[how]
    check(write(), wanted(), most_mean, 5 if "GIF" in how else 2)


def test_each_photograph_is_answered(tmp_path: Path) -> None:
    files = [photograph(name) for name in (*NAMES, *CLEAR, ANIMATED)] + [write() for write, _, _ in WRITTEN.values()]
    with draft_server(tmp_path, "--n-ctx", "1024") as server:
        for file in files:
            request = ask(file, "What is in the image?")
            request.messages[0].parts[0].image.max_tokens = 64
            answer = server.stub.Generate(request, timeout=60)
            pixels = read_pixels(file, 64)
            assert answer.token_ids
            assert answer.image_tokens == pixels.across * pixels.down
        assert not server.health().engine.restarts
