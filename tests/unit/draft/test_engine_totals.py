"""The counters of a server over all its engines."""

from __future__ import annotations

from skills.skill_draft.engine.config import Load, Stats
from skills.skill_draft.engine_totals import EngineTotals


def test_the_death_of_an_engine_resets_no_counter_and_leaves_its_work_ahead() -> None:
    totals = EngineTotals()
    totals.heard(Stats(lookup_tokens=5, load=Load(ahead_s=2.0, arrived_s=3.0, done_s=1.0, prompt_token_s=0.1)))
    for _ in range(2):  # the second one dies before it has told anything
        totals.ended()
        assert totals.load == Load(ahead_s=2.0, arrived_s=3.0, done_s=1.0, prompt_token_s=0.1)
        assert totals.stats == Stats()
    totals.heard(Stats(lookup_tokens=2, load=Load(arrived_s=2.0, done_s=2.0)))
    assert totals.load == Load(arrived_s=5.0, done_s=3.0)
    assert totals.lookup == (7, 0)
