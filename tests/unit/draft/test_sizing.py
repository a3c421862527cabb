"""The next engine takes over the sizes of the last one, unless memory ran out or the limit has changed."""

from __future__ import annotations

from skills.skill_draft.engine.messages import EngineConfig
from skills.skill_draft.sizing import MAX_STEPS, Sizing
from tests.engine_world import SIZES

CONFIG = EngineConfig(model="any")
GIB = 1 << 30


def test_a_further_engine_takes_what_the_first_one_measured() -> None:
    sizing = Sizing()
    assert sizing.of_next(CONFIG, limit=GIB) == CONFIG
    sizing.measured(SIZES)
    assert sizing.of_next(CONFIG, limit=GIB).sizes == SIZES


def test_each_time_that_memory_runs_out_the_next_engine_is_smaller_up_to_a_bound() -> None:
    sizing = Sizing()
    for step in range(MAX_STEPS):
        sizing.of_next(CONFIG, limit=GIB)
        sizing.measured(SIZES)
        assert sizing.shrink()
        config = sizing.of_next(CONFIG, limit=GIB)
        assert (config.memory_kills, config.sizes) == (step + 1, None), "it measures again"
    assert not sizing.shrink()
    assert sizing.kills == MAX_STEPS + 1


def test_another_limit_makes_the_next_engine_choose_its_sizes_anew() -> None:
    sizing = Sizing()
    sizing.of_next(CONFIG, limit=GIB)
    sizing.shrink()
    sizing.measured(SIZES)
    assert sizing.note
    assert sizing.of_next(CONFIG, limit=4 * GIB) == CONFIG
    assert not sizing.note
