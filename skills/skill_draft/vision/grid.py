"""The size that an image gets before it is encoded: whole image tokens, in about its own proportions."""

from __future__ import annotations

import math

from skills.runtime.pictures.tiles import TILE, tiled_size

from .limits import MIN_TOKENS


def grid_of(width: int, height: int, max_tokens: int) -> tuple[int, int]:
    """Return the columns and rows of image tokens that an image is read as, `MIN_TOKENS` to `max_tokens` together.

    A smaller image is scaled up, a larger one down: then the tower does not resize it again.

    Args:
        width: Pixels of the image, at least 1.
        height: Pixels of the image, at least 1.
        max_tokens: At least `MIN_TOKENS`.
    """
    pixels = tiled_size(width, height, min_pixels=MIN_TOKENS * TILE**2, max_pixels=max_tokens * TILE**2)
    across, down = pixels[0] // TILE, pixels[1] // TILE
    if across * down >= MIN_TOKENS:
        return across, down
    # The bounds are so close that rounding has left them: the grid between them whose proportions are nearest.
    wanted = math.log(width / height)
    grids = [(n // rows, rows) for n in range(MIN_TOKENS, max_tokens + 1) for rows in range(1, n + 1) if n % rows == 0]
    return min(grids, key=lambda grid: (abs(math.log(grid[0] / grid[1]) - wanted), -grid[0] * grid[1]))
