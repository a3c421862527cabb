"""What `sarai models show` says that a model needs is what the engine counts with."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.models.gguf_file import read_gguf
from core.models.needs import needs_of
from skills.skill_draft.catalog import EMBEDDED, find_model
from skills.skill_draft.engine.binding import Model, ModelError, ModelParams
from skills.skill_draft.engine.memory import MIB, SPARE_SHARE, Costs, choose
from skills.skill_draft.engine.messages import EngineConfig
from tests.servers import TINY


@pytest.mark.parametrize("name", ["tiny", EMBEDDED])
def test_bytes_are_those_of_the_engine(name: str) -> None:
    path = TINY if name == "tiny" else find_model(name, Path("/nonexistent"))
    needs = needs_of(read_gguf(path))
    model = Model(path, ModelParams(mmap=True, repack=False))
    costs = Costs.of(model, exact=True)
    assert needs is not None
    assert (needs.cell, needs.vocabulary) == (costs.cell, costs.vocabulary)
    assert (needs.row, needs.output) == (costs.row, costs.output)


@pytest.mark.parametrize("limit", [700, 1500, 9000])
def test_as_many_cells_fit_as_the_engine_lets_fit(limit: int) -> None:
    needs = needs_of(read_gguf(find_model(EMBEDDED, Path("/nonexistent"))))
    assert needs is not None
    costs = Costs(cell=needs.cell, row=needs.row, output=needs.output, vocabulary=needs.vocabulary)
    cells = needs.cells_within(limit * MIB)
    # What `with_cells` counts besides cells, buffers and the vocabulary: weights and processes.
    free = limit * MIB * (1 - SPARE_SHARE) - (
        needs.with_cells(0) - 512 * needs.row - 100 * needs.output - needs.vocabulary
    )

    def choose_cells(n: int) -> int:
        return choose(EngineConfig(model="", n_ctx=n, kv_cells=n), costs, n_ctx_train=1 << 30, free=free).n_cells

    assert choose_cells(cells - 1) == cells - 1
    with pytest.raises(ModelError):
        choose_cells(cells + 2)
