"""A llama.cpp from another build is not reported as exact if its kernels are not."""

from __future__ import annotations

import pytest

from skills.skill_draft.engine import loading
from skills.skill_draft.engine.build import system_info, why_not_exact, why_slower
from skills.skill_draft.engine.messages import EngineConfig
from tests.servers import TINY

# What a build for Sapphire Rapids prints, shortened, and one for a CPU without AMX.
WITH_AMX = "CPU : SSE3 = 1 | AVX512 = 1 | AVX512_VNNI = 1 | AMX_INT8 = 1 | LLAMAFILE = 1 | OPENMP = 1 | REPACK = 1 | "
WITHOUT_AMX = "CPU : SSE3 = 1 | AVX2 = 1 | AMX_INT8 = 0 | LLAMAFILE = 1 | OPENMP = 1 | REPACK = 1 | "


def load(*, exact: bool = True) -> loading.Loaded:
    return loading.load(EngineConfig(model=str(TINY), n_ctx=512, kv_cells=1024, exact=exact))


def test_amx_makes_it_fast_and_the_note_says_why_and_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "system_info", lambda: WITH_AMX)
    loaded = load()
    assert loaded.numerics == "fast"
    (note,) = [note for note in loaded.notes if "AMX" in note]
    assert "not exact" in note
    assert "make setup" in note


def test_who_asked_for_fast_is_told_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "system_info", lambda: WITH_AMX)
    assert not [note for note in load(exact=False).notes if "AMX" in note]


@pytest.mark.parametrize("without", [WITHOUT_AMX, "", "CPU : AVX2 = 1 | "])
def test_without_amx_there_is_nothing_to_say(without: str) -> None:
    assert why_not_exact(without) == ""


def test_a_build_without_our_kernels_serves_and_the_note_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "has_our_kernels", lambda: False)
    monkeypatch.setattr(loading, "system_info", lambda: WITHOUT_AMX)
    loaded = load()
    assert loaded.numerics == "exact", "llama.cpp's own kernels for this model's types are exact"
    (note,) = [note for note in loaded.notes if "slower" in note]
    assert "make setup" in note
    assert "uv sync" in note


def test_where_our_kernels_run_or_cannot_run_there_is_nothing_to_say() -> None:
    assert why_slower(WITHOUT_AMX, ours=True) == ""
    assert why_slower("CPU : NEON = 1 | ARM_FMA = 1 | ", ours=False) == ""


def test_the_build_of_the_set_up_is_exact() -> None:
    assert "CPU : " in system_info(), "the text comes from the loaded library"
    assert why_not_exact(system_info()) == ""
    assert load().numerics == "exact"
