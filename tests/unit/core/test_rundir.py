from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import pytest

from core.backends.rundir import RunDir


@pytest.fixture
def base(monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="t", dir="/tmp"))  # short enough for sockets, unlike tmp_path
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def age(path: Path) -> None:
    long_ago = time.time() - 3600
    os.utime(path, (long_ago, long_ago))


def test_directory_is_private_and_goes_when_it_is_removed(base: Path) -> None:
    run_dir = RunDir()
    assert run_dir.path.parent == base
    assert run_dir.path.stat().st_mode & 0o777 == 0o700
    run_dir.remove()
    assert list(base.iterdir()) == []


def test_directory_left_behind_is_removed_by_the_next(base: Path) -> None:
    left = base / "sarai-left"
    left.mkdir()
    (left / "lock").touch()
    (left / "skill.sock").touch()
    age(left)
    RunDir().remove()
    assert not left.exists()


def test_directory_in_use_or_new_or_of_others_stays(base: Path) -> None:
    used = RunDir()
    age(used.path)
    new = base / "sarai-new"
    new.mkdir()
    (new / "lock").touch()
    foreign = base / "sarai-foreign"
    foreign.mkdir()
    age(foreign)
    RunDir().remove()
    assert used.path.exists()
    assert new.exists()
    assert foreign.exists()
    used.remove()


def test_long_directory_for_temporary_files_is_avoided(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = tmp_path / ("x" * 80)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    run_dir = RunDir()
    assert len(os.fsencode(run_dir.path / "skill.sock")) < 100
    run_dir.remove()
