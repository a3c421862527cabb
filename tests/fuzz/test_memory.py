"""Any model in any memory: the chosen sizes fit, or there is an error."""

from __future__ import annotations

import dataclasses

from hypothesis import given
from hypothesis import strategies as st

from skills.skill_draft.engine.binding import ModelError
from skills.skill_draft.engine.memory import MIN_N_CTX, OWN_SLOTS, Costs, choose
from tests.unit.draft.test_memory import CONFIG, taken


@given(
    free=st.floats(1, 64 << 30),
    costs=st.builds(
        Costs, cell=st.floats(1 << 10, 1 << 20), row=st.floats(1 << 12, 1 << 20), output=st.integers(4000, 1 << 20)
    ),
    slots=st.integers(1, 64),
    kills=st.integers(0, 6),
)
def test_whatever_the_model_and_the_limit_sizes_fit_or_are_refused(
    free: float, costs: Costs, slots: int, kills: int
) -> None:
    config = dataclasses.replace(CONFIG, slots=slots, memory_kills=kills)
    try:
        sizes = choose(config, costs, n_ctx_train=32_768, free=free)
    except ModelError:
        return  # tests/unit checks its message
    # A block has a minimum size, which small caches do not need.
    block = min(sizes.block_cells, sizes.n_cells)
    assert taken(dataclasses.replace(sizes, block_cells=block), costs) <= free + 64 * costs.cell
    assert MIN_N_CTX <= sizes.n_ctx <= sizes.n_cells
    assert 1 <= sizes.slots <= sizes.n_slots - OWN_SLOTS
    assert sizes.n_slots <= sizes.n_batch
    assert sizes.n_slots <= sizes.n_outputs <= sizes.n_batch
