from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import pytest

from core.local.process import server_environment
from core.local.rundir import share_key
from core.skill import SkillSpec
from tests.stub_plugin import stub_spec

SPEC = stub_spec()


def key(spec: SkillSpec = SPEC, **settings: str) -> str:
    return share_key(spec, server_environment() | settings)


def test_key_is_the_same_for_the_same_server() -> None:
    assert key() == key(stub_spec())
    assert key(SKILL_A="1", SKILL_B="2") == key(SKILL_B="2", SKILL_A="1")
    assert key(TERM="dumb", SARAI_LOG_DIR="/elsewhere") == key()


@pytest.mark.parametrize(
    "changed",
    [
        {"name": "other"},
        {"version": "1"},
        {"serve": (*SPEC.serve, "--reply", "x")},
    ],
)
def test_every_part_of_how_a_skill_is_started_counts(changed: dict[str, Any]) -> None:
    assert key(dataclasses.replace(SPEC, **changed)) != key()


def test_settings_of_skills_and_the_python_count(monkeypatch: pytest.MonkeyPatch) -> None:
    assert key(SKILL_DRAFT_X="1") != key()
    assert key(SKILL_DRAFT_X="1") != key(SKILL_DRAFT_X="2")
    before = key()
    monkeypatch.setattr(sys, "executable", "/another/python")
    assert key() != before


def test_where_modules_come_from_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = key()
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    assert key() != before


def test_programs_in_different_directories_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(Path(entry).absolute()) for entry in sys.path])
    keys = set()
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        with monkeypatch.context() as program:
            program.chdir(folder)
            program.setattr(sys, "path", ["", *sys.path])
            keys.add(key())
    assert len(keys) == 1


def test_program_with_another_copy_of_the_server_does_not_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = key()
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "__init__.py").touch()
    monkeypatch.setattr(sys, "path", [str(Path(entry).absolute()) for entry in sys.path])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    assert key() != before


def test_relative_path_means_a_file_of_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(Path(entry).absolute()) for entry in sys.path])
    keys = []
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "model.gguf").touch()
        monkeypatch.chdir(folder)
        keys.append((key(SKILL_DRAFT_MODEL="model.gguf"), key(SKILL_DRAFT_MODEL="catalogue-name")))
    assert keys[0][0] != keys[1][0]
    assert keys[0][1] == keys[1][1]
