from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from core.local.lifeline import Lifeline, close_held, make_lifeline
from core.local.rundir import NAME_BYTES, RunDir

NAME = "x" * (NAME_BYTES * 4 // 3)


@pytest.fixture
def base(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="t", dir="/tmp") as folder:  # short enough for sockets, unlike tmp_path
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)


def at_once() -> None:
    raise TimeoutError


def age(path: Path) -> None:
    long_ago = time.time() - 3600
    os.utime(path, (long_ago, long_ago))


def test_directory_is_private_and_goes_when_it_is_removed(base: Path) -> None:
    run_dir = RunDir(NAME)
    with run_dir.locked(at_once):
        assert run_dir.path.parent == base
        assert run_dir.path.stat().st_mode & 0o777 == 0o700
        run_dir.remove()
    assert list(base.iterdir()) == []


def test_same_name_is_the_same_directory_and_none_is_one_of_its_own(base: Path) -> None:
    assert RunDir(NAME).path == RunDir(NAME).path
    assert len({RunDir(None).path, RunDir(None).path, RunDir(NAME).path}) == 3
    assert list(base.iterdir()) == []


@pytest.mark.usefixtures("base")
def test_one_at_a_time_has_the_lock() -> None:
    with RunDir(NAME).locked(at_once), pytest.raises(TimeoutError), RunDir(NAME).locked(at_once):
        pass
    with RunDir(NAME).locked(at_once):
        pass


@pytest.mark.usefixtures("base")
def test_who_waited_for_a_directory_that_was_removed_gets_a_new_one() -> None:
    first, second = RunDir(NAME), RunDir(NAME)
    with first.locked(at_once):
        old = first.path.stat().st_ino
        kept = os.open(first.path, os.O_RDONLY)  # so that its inode number is not reused

        waits = 0

        def remove_and_let_in() -> None:
            nonlocal waits
            waits += 1
            first.remove()

        with second.locked(remove_and_let_in):
            assert waits == 1
            assert second.path.stat().st_ino != old
            with pytest.raises(TimeoutError), RunDir(NAME).locked(at_once):
                pass
    os.close(kept)


@pytest.mark.usefixtures("base")
def test_of_many_that_come_and_remove_it_no_two_have_the_lock_at_once() -> None:
    inside = 0

    def come_and_go(_: int) -> int:
        nonlocal inside
        run_dir = RunDir(NAME)
        most = 0
        for _ in range(75):
            with run_dir.locked(lambda: time.sleep(0)):
                inside += 1
                time.sleep(0)
                most = max(most, inside)
                inside -= 1
                run_dir.remove()
        return most

    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(come_and_go, range(8))) == {1}


def test_directory_left_behind_is_removed_by_the_next(base: Path) -> None:
    left = base / "sarai-left"
    left.mkdir(mode=0o700)
    for name in ("lock", "skill.sock"):
        (left / name).touch()
    close_held(make_lifeline(left / "lifeline"))
    age(left)
    RunDir(NAME)
    assert not left.exists()


def test_directory_in_use_or_new_or_of_others_stays(base: Path) -> None:
    locked, used, new, foreign = (base / f"sarai-{name}" for name in ("locked", "used", "new", "foreign"))
    for path in (used, new, foreign):
        path.mkdir(mode=0o700)
    for path in (used, new):
        (path / "lock").touch()
    reading = make_lifeline(used / "lifeline")
    user = Lifeline(used / "lifeline")
    with RunDir("locked").locked(at_once):
        for path in (locked, used, foreign):
            age(path)
        RunDir(NAME)
        assert all(path.exists() for path in (locked, used, new, foreign))
    user.close()
    close_held(reading)


def test_long_directory_for_temporary_files_is_avoided(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = tmp_path / ("x" * 80)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    assert len(os.fsencode(RunDir(NAME).socket)) < 100


def test_link_in_the_directorys_place_is_not_followed(base: Path) -> None:
    elsewhere = base / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    RunDir(NAME).path.symlink_to(elsewhere)
    run_dir = RunDir(NAME)
    assert run_dir.path.name != f"sarai-{NAME}"
    with run_dir.locked(at_once):
        assert run_dir.path.exists()
    assert list(elsewhere.iterdir()) == []


@pytest.mark.usefixtures("base")
def test_file_in_the_directorys_place_is_left_alone() -> None:
    path = RunDir(NAME).path
    path.touch(mode=0o600)
    assert RunDir(NAME).path != path


@pytest.mark.usefixtures("base")
def test_directory_that_others_may_enter_is_not_used() -> None:
    path = RunDir(NAME).path
    path.mkdir(mode=0o700)
    assert RunDir(NAME).path == path
    path.chmod(0o755)
    assert RunDir(NAME).path != path


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
@pytest.mark.usefixtures("base")
def test_directory_of_another_user_is_not_used() -> None:
    path = RunDir(NAME).path
    path.mkdir(mode=0o700)
    os.chown(path, 12345, -1)
    assert RunDir(NAME).path != path


def test_link_that_comes_later_is_not_followed_either(base: Path) -> None:
    elsewhere = base / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    run_dir = RunDir(NAME)
    run_dir.path.symlink_to(elsewhere)
    with pytest.raises(PermissionError, match="not a private directory"), run_dir.locked(at_once):
        pass
    assert list(elsewhere.iterdir()) == []
