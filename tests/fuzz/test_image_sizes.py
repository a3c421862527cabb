"""Images of any size: what they are scaled to, and the grid that they are read as."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from skills.runtime.pictures.tiles import MAX_ASPECT, TILE, tiled_size
from skills.skill_draft.vision.grid import grid_of
from skills.skill_draft.vision.limits import MAX_TOKENS, MIN_TOKENS
from tests.unit.image.test_tiles import LEAST, MOST

SIDE = st.integers(1, 20_000)


def smart_resize(width: int, height: int) -> tuple[int, int]:
    """As Qwen's image processor has it."""
    across, down = max(TILE, round(width / TILE) * TILE), max(TILE, round(height / TILE) * TILE)
    if across * down > MOST:
        beta = math.sqrt(width * height / MOST)
        across = max(TILE, math.floor(width / beta / TILE) * TILE)
        down = max(TILE, math.floor(height / beta / TILE) * TILE)
    elif across * down < LEAST:
        beta = math.sqrt(LEAST / (width * height))
        across, down = math.ceil(width * beta / TILE) * TILE, math.ceil(height * beta / TILE) * TILE
    return across, down


@given(SIDE, SIDE, st.integers(TILE**2, 1 << 24), st.integers(TILE**2, 1 << 24))
def test_size_is_whole_tiles_and_never_more_than_is_allowed(width: int, height: int, least: int, most: int) -> None:
    across, down = tiled_size(width, height, min_pixels=min(least, most), max_pixels=most)
    assert across % TILE == down % TILE == 0
    assert across >= TILE
    assert down >= TILE
    assert across * down <= most


@given(SIDE, SIDE)
def test_model_would_not_resize_it_again(width: int, height: int) -> None:
    if max(width, height) > MAX_ASPECT / 4 * min(width, height):
        return
    size = tiled_size(width, height, min_pixels=LEAST, max_pixels=MOST)
    assert size == smart_resize(width, height)
    assert LEAST <= size[0] * size[1] <= MOST
    assert tiled_size(*size, min_pixels=LEAST, max_pixels=MOST) == size


@given(st.integers(1, 20_000), st.integers(1, 20_000), st.integers(MIN_TOKENS, MAX_TOKENS))
def test_every_grid_is_within_its_bounds(width: int, height: int, max_tokens: int) -> None:
    across, down = grid_of(width, height, max_tokens)
    assert MIN_TOKENS <= across * down <= max_tokens
