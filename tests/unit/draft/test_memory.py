"""Sizes are chosen to fit into memory; if memory is too small, the error says what would help."""

from __future__ import annotations

import dataclasses

import pytest

from skills.skill_draft.engine.binding import ModelError
from skills.skill_draft.engine.memory import MIB, OWN_SLOTS, USEFUL_CELLS, Costs, choose
from skills.skill_draft.engine.messages import EngineConfig, Sizes

# Qwen3-VL-4B in IQ4_NL: 110 KiB a cell, a vocabulary of 151,936.
FOUR_B = Costs(cell=110 * 1024, row=178_176, output=4 * 151_936, vocabulary=260 * 151_936)
CONFIG = EngineConfig(model="any.gguf")


def taken(sizes: Sizes, costs: Costs) -> float:
    """Return how many bytes these sizes take."""
    outputs = sizes.n_outputs * costs.output
    cells = (sizes.n_cells + sizes.block_cells) * costs.cell
    return cells + outputs + max(outputs, sizes.n_batch * costs.row)


def test_the_4b_in_3_gb_holds_four_callers_with_a_thousand_tokens_each() -> None:
    weights, others, limit = 2269, 70, 3072  # MiB, as measured; `others` are Python and the kernel
    sizes = choose(CONFIG, FOUR_B, n_ctx_train=262_144, free=(0.95 * limit - weights - others) * MIB)
    assert sizes.n_cells >= USEFUL_CELLS
    assert sizes.slots == CONFIG.slots


def test_with_memory_to_spare_nothing_is_smaller_than_it_was_asked_for() -> None:
    sizes = choose(CONFIG, FOUR_B, n_ctx_train=262_144, free=32 << 30)
    assert (sizes.n_ctx, sizes.n_cells, sizes.n_batch, sizes.slots) == (4096, 8192, 512, 16)
    assert sizes.n_slots == OWN_SLOTS + CONFIG.slots + CONFIG.prefixes


def test_each_kill_makes_the_batch_smaller_down_to_a_least_one() -> None:
    batches = [
        choose(dataclasses.replace(CONFIG, memory_kills=k), FOUR_B, n_ctx_train=4096, free=32 << 30).n_batch
        for k in range(6)
    ]
    assert batches == [512, 256, 128, 64, 64, 64]


def test_a_context_that_does_not_fit_is_refused_with_one_that_does() -> None:
    config = dataclasses.replace(CONFIG, n_ctx=16_384)
    with pytest.raises(ModelError, match=r"lower SKILL_DRAFT_N_CTX to at most (\d+), or give the container more") as no:
        choose(config, FOUR_B, n_ctx_train=262_144, free=700 * MIB)
    affordable = int(str(no.value).split("at most ")[1].split(",")[0])
    lower = choose(dataclasses.replace(config, n_ctx=affordable), FOUR_B, n_ctx_train=262_144, free=700 * MIB)
    assert lower.n_ctx == affordable


def test_where_not_even_a_short_context_fits_only_memory_helps() -> None:
    with pytest.raises(ModelError, match=r"left after the model: give the container more memory"):
        choose(CONFIG, FOUR_B, n_ctx_train=262_144, free=20 * MIB)


def test_with_images_a_block_holds_the_largest_and_the_sizes_still_fit() -> None:
    seeing = dataclasses.replace(FOUR_B, images=3 * 128 * 40_960)
    for free in (300 * MIB, 700 * MIB, 8 << 30):
        text = choose(CONFIG, FOUR_B, n_ctx_train=262_144, free=free)
        sizes = choose(CONFIG, seeing, n_ctx_train=262_144, free=free)
        assert taken(sizes, seeing) + seeing.images <= free
        assert text.block_cells <= sizes.block_cells <= CONFIG.max_image_tokens
        assert sizes.n_cells <= text.n_cells
    blocks = [choose(CONFIG, seeing, n_ctx_train=262_144, free=free).block_cells for free in (300 * MIB, 8 << 30)]
    assert blocks[0] >= 400
    assert blocks[1] == CONFIG.max_image_tokens
