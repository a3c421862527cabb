"""What `sarai models show` says that a model needs is what the engine counts with."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.models.gguf_file import read_gguf
from core.models.needs import needs_of
from skills.skill_draft.catalog import EMBEDDED, find_model
from skills.skill_draft.engine.binding import Model, ModelParams
from skills.skill_draft.engine.memory import Costs
from tests.servers import TINY


@pytest.mark.parametrize("name", ["tiny", EMBEDDED])
def test_bytes_are_those_of_the_engine(name: str) -> None:
    path = TINY if name == "tiny" else find_model(name, Path("/nonexistent"))
    needs = needs_of(read_gguf(path))
    model = Model(path, ModelParams(mmap=True, repack=False))
    costs = Costs.of(model, exact=True)
    assert needs is not None
    assert (needs.cell, needs.vocabulary) == (costs.cell, costs.vocabulary)
    # A batch of 512 rows, and rows of logits twice: in the graph, and where they are copied to.
    assert needs.buffers == 512 * costs.row + 2 * 50 * costs.output
