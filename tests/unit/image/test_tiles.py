from __future__ import annotations

import pytest

from skills.runtime.pictures.tiles import TILE, tiled_size

LEAST, MOST = 64 * TILE**2, 1024 * TILE**2


@pytest.mark.parametrize(
    ("given_size", "size"),
    [((640, 480), (640, 480)), ((1000, 1000), (992, 992)), ((4000, 3000), (1152, 864)), ((100, 50), (384, 192)),
     ((3000, 3000), (1024, 1024)), ((32, 6400), (32, 6400))],
)  # fmt: skip
def test_shape_is_kept_to_a_tile(given_size: tuple[int, int], size: tuple[int, int]) -> None:
    assert tiled_size(*given_size, min_pixels=LEAST, max_pixels=MOST) == size
