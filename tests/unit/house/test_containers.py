"""Tests with containers on machines without an engine: what is reported, and what the set-up needs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.house.test_set_up import keep_wheel
from tools import base_image, containers, debian, setup_venv, skill_image, test_set_up

ROOT = Path(__file__).resolve().parents[3]
# A docker command with an engine that has no image and reaches no registry.
ENGINE = 'case "$1" in info|version) exit 0;; *) exit 1;; esac'


@pytest.fixture
def binaries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Create the only folder of PATH: it has what the set-up needs, but neither docker nor debootstrap."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("sh", "c++", "git", "apt-get", "dpkg"):
        if (found := shutil.which(name)) is not None:
            (folder / name).symlink_to(found)
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv(containers.REQUIRED, raising=False)
    return folder


def install_docker(binaries: Path, script: str) -> None:
    docker = binaries / "docker"
    docker.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    docker.chmod(0o755)


def reason() -> str:
    with pytest.raises(containers.NoContainersError) as raised:
        containers.prepare()
    text = str(raised.value)
    assert "\n" not in text
    return text


@pytest.mark.usefixtures("binaries")
def test_without_a_docker_command_it_says_what_to_install() -> None:
    assert "install Docker" in reason()


def test_an_engine_that_does_not_run_is_told_with_its_own_words(binaries: Path) -> None:
    install_docker(binaries, "echo Client: >&2; echo Cannot connect to the engine >&2; exit 1")
    assert "Cannot connect to the engine): start the engine" in reason()


def test_an_engine_that_may_not_be_used_is_told(binaries: Path) -> None:
    install_docker(binaries, "echo permission denied while trying to connect >&2; exit 1")
    assert "join the group docker" in reason()


def test_who_is_not_root_is_told_that_root_makes_the_base_image(
    binaries: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_docker(binaries, ENGINE)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "`sudo make base-image`" in reason()


def test_a_machine_that_is_no_debian_and_has_no_debootstrap_is_told(
    binaries: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_docker(binaries, ENGINE)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(debian, "KEYRING", binaries / "no-keyring")
    assert "debootstrap: this is no Debian" in reason()


@pytest.mark.skipif(shutil.which("apt-get") is None, reason="no apt here, which this test asks for an archive")
def test_an_archive_that_is_not_reached_is_one_line_too(
    binaries: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_docker(binaries, f'[ "$2" = inspect ] && exit 1; {ENGINE.replace("version", "version|compose")}')
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    (tmp_path / "sources.list").write_text("deb http://127.0.0.1:9/debian bookworm main\n", encoding="utf-8")
    (tmp_path / "apt.conf").write_text(
        f'Dir::Etc::SourceList "{tmp_path}/sources.list";\nDir::Etc::SourceParts "{tmp_path}/none";\n'
        'Acquire::Retries::Delay "false";\n', encoding="utf-8",
    )  # fmt: skip
    monkeypatch.setenv("APT_CONFIG", str(tmp_path / "apt.conf"))
    monkeypatch.setattr(base_image, "IMAGE", "there-is-no-such-image")
    assert re.search("cannot be made from Debian's packages: debootstrap cannot be fetched: .*127.0.0.1", reason())


@pytest.mark.usefixtures("new_tree")
def test_the_plan_names_what_is_not_there_yet_and_one_compilation_for_all(binaries: Path) -> None:
    install_docker(binaries, ENGINE)
    assert planned() == ["compiling", "filling", "making", "building", "the"]
    setup_venv.note_done("portable")
    install_docker(binaries, "exit 0")
    keep_wheel(portable=True)
    assert planned() == ["the"]


@pytest.mark.usefixtures("new_tree")
def test_the_plan_after_a_loop_compiles_for_the_images_alone(binaries: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(skill_image, "compiles_for_the_image", lambda: True)  # whatever system the tests run on
    install_docker(binaries, ENGINE)
    keep_wheel(portable=False)
    setup_venv.note_done("native")
    assert planned() == ["compiling", "making", "building", "the"]


def planned() -> list[str]:
    """Return the first word of each step."""
    steps = test_set_up.plan("portable", with_containers=True, everything=True)
    return [what.split()[0] for what, seconds in steps if seconds > 0]


@pytest.mark.usefixtures("binaries")
def test_set_up_of_the_tests_ends_at_once_where_containers_are_required() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tools.test_set_up"], cwd=ROOT, env={**os.environ, containers.REQUIRED: "1"},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "there is no docker command" in done.stderr
