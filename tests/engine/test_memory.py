"""If memory is tight, the worst step is run before the engine serves, and leaves no trace."""

from __future__ import annotations

import os
from typing import Any

import pytest

from skills.runtime.resources import anonymous_bytes
from skills.skill_draft.engine import loading
from skills.skill_draft.engine.binding import ModelError
from skills.skill_draft.engine.memory import MIB, SPARE_SHARE, rehearse
from skills.skill_draft.engine.messages import Done

from .harness import EngineUnderTest, ask


class Machine:
    """A machine with this free memory, as `loading` sees it; memory allocated afterwards counts."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, size: float, free: float) -> None:
        self.rehearsals = 0
        self._free = free + anonymous_bytes([os.getpid()])
        monkeypatch.setattr(loading, "memory_size", lambda: size)
        monkeypatch.setattr(loading, "memory_available", self.free)
        monkeypatch.setattr(loading, "rehearse", self._rehearse)

    def free(self) -> float:
        return self._free - anonymous_bytes([os.getpid()])

    def _rehearse(self, *arguments: Any) -> None:
        self.rehearsals += 1
        rehearse(*arguments)


def text_of(engine: EngineUnderTest) -> str:
    done = engine.answer(ask())
    assert isinstance(done, Done)
    return done.endings[0].text


def test_a_rehearsal_changes_no_answer() -> None:
    with EngineUnderTest() as engine:
        undisturbed = text_of(engine)
    engine = EngineUnderTest()
    rehearse(engine.loaded.context, engine.loaded.sizes)
    with engine:
        assert text_of(engine) == undisturbed


def test_with_plenty_of_memory_nothing_is_rehearsed(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, size=16e9, free=12e9)
    EngineUnderTest(n_ctx=0, kv_cells=0)
    assert machine.rehearsals == 0


def test_where_memory_is_tight_sizes_shrink_until_the_spare_share_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, size=400 * MIB, free=48 * MIB)
    engine = EngineUnderTest(n_ctx=0, kv_cells=0)
    assert machine.rehearsals >= 1
    assert machine.free() >= SPARE_SHARE * 400 * MIB
    with engine:
        assert text_of(engine).startswith("one two three")


def test_what_an_engine_measured_the_next_one_takes_over(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, size=400 * MIB, free=60 * MIB)
    sizes = EngineUnderTest(n_ctx=0, kv_cells=0).loaded.sizes
    tried = machine.rehearsals
    assert EngineUnderTest(n_ctx=0, kv_cells=0, sizes=sizes).loaded.sizes == sizes
    assert machine.rehearsals == tried


def test_an_engine_after_a_kill_leaves_twice_as_much_free_and_parks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    Machine(monkeypatch, size=400 * MIB, free=120 * MIB)
    before = EngineUnderTest(n_ctx=0, kv_cells=0).loaded.sizes
    after = EngineUnderTest(n_ctx=0, kv_cells=0, memory_kills=1).loaded.sizes
    assert after.n_batch < before.n_batch
    assert (before.parked_bytes > 0, after.parked_bytes) == (True, 0)


def test_too_little_memory_for_any_size_is_an_error_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    Machine(monkeypatch, size=400 * MIB, free=21 * MIB)
    with pytest.raises(ModelError, match="more memory"):
        EngineUnderTest(n_ctx=0, kv_cells=0)


def test_memory_that_is_reserved_for_images_is_left_free(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, size=400 * MIB, free=120 * MIB)
    engine = EngineUnderTest(n_ctx=0, kv_cells=0, reserved_bytes=60 * MIB)
    assert machine.free() >= 60 * MIB + SPARE_SHARE * 400 * MIB
    assert any("60 MB for images" in note for note in engine.loaded.notes)
    with pytest.raises(ModelError, match="more memory"):
        EngineUnderTest(n_ctx=0, kv_cells=0, reserved_bytes=110 * MIB)
