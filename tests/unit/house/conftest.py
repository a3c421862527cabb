"""A tree that is not set up yet, on a machine with an empty cache."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tools import setup_venv

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def new_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Create a tree that the set-up takes for this one: with lock files, without .venv, with an empty cache."""
    for name in setup_venv.INPUTS:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    monkeypatch.setattr(setup_venv, "ROOT", tmp_path)
    monkeypatch.setattr(setup_venv, "VENV", tmp_path / ".venv")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("SARAI_WHEEL", raising=False)
    return tmp_path
