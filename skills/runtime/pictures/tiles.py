"""The size that a picture gets: whole tiles of the model, within bounds on its pixels, in its own proportions."""

from __future__ import annotations

import math

TILE = 32
"""Side in pixels: Qwen3-VL's patches of 16, merged two by two. One tile is one token."""
MAX_ASPECT = 200
"""The longest side in terms of the shorter one; beyond that it is not a picture but a line."""


def tiled_size(width: int, height: int, *, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """Return width and height in pixels, multiples of `TILE`, with a product from `min_pixels` to `max_pixels`.

    This is the model's own rule (`smart_resize` of Qwen's image processor), so a picture of this size is not resized
    again. If it would exceed `max_pixels`, as with very long pictures or narrow bounds, the longer side is reduced.

    Args:
        width: pixels, at least 1.
        height: pixels, at least 1.
        min_pixels: the minimum of the product.
        max_pixels: its maximum, at least one tile.
    """
    across, down = max(1, round(width / TILE)), max(1, round(height / TILE))
    if across * down * TILE**2 > max_pixels:
        shrink = math.sqrt(width * height / max_pixels)
        across, down = max(1, math.floor(width / shrink / TILE)), max(1, math.floor(height / shrink / TILE))
    elif across * down * TILE**2 < min_pixels:
        grow = math.sqrt(min_pixels / (width * height))
        across, down = math.ceil(width * grow / TILE), math.ceil(height * grow / TILE)
    most = max_pixels // TILE**2
    if across * down > most:
        across, down = (most // down, down) if across > down else (across, most // across)
        across, down = max(1, min(across, most)), max(1, min(down, most))
    return across * TILE, down * TILE
