"""The perceptual hash: similar pictures have hashes that differ in few bits.

This is dHash, implemented here because the library for it requires numpy, scipy and PyWavelets, 150 MB.
"""

from __future__ import annotations

import itertools

from PIL import Image

_WIDTH, _HEIGHT = 9, 8


def perceptual_hash(picture: Image.Image) -> int:
    """Return 64 bits: whether it gets brighter from each pixel to the next, in 8 rows of 9. The first is the highest.

    Args:
        picture: In mode RGB or L.
    """
    small = picture.convert("L").resize((_WIDTH, _HEIGHT), Image.Resampling.BOX).tobytes()
    value = 0
    for start in range(0, _WIDTH * _HEIGHT, _WIDTH):
        row = small[start : start + _WIDTH]
        for left, right in itertools.pairwise(row):
            value = value << 1 | (right > left)
    return value
