"""A set-up that is interrupted leaves none of its processes running."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.servers import ROOT


def until(holds: Callable[[], object], within_s: float = 20.0) -> None:
    end_s = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < end_s
        time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_step_that_is_told_to_end_leaves_none_of_its_processes_behind(tmp_path: Path, number: int) -> None:
    # A compiler that a build tool starts, as with pip; it outlives the build tool unless the set-up ends it too.
    build_tool = f"sleep 300 & echo $! > {tmp_path}/compiler; wait"
    step = (
        "from pathlib import Path; from tools.step import run_step; "
        f"run_step('building', ['sh', '-c', {build_tool!r}], log=Path({str(tmp_path / 'log')!r}), expected_s=1, "
        "read_progress=lambda line: None)"
    )
    with subprocess.Popen([sys.executable, "-c", step], cwd=ROOT, stderr=subprocess.PIPE, text=True) as set_up:
        started = tmp_path / "compiler"
        until(lambda: started.exists() and started.read_text().endswith("\n"))
        compiler = int(started.read_text())
        set_up.send_signal(number)
        _, said = set_up.communicate(timeout=30)
    assert "building: interrupted" in said
    assert set_up.returncode != 0
    until(lambda: not psutil.pid_exists(compiler) or psutil.Process(compiler).status() == psutil.STATUS_ZOMBIE)


def test_make_that_is_told_to_end_ends_the_set_up(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho $$ > started\nexec sleep 300\n", encoding="utf-8")
    python.chmod(0o755)
    started = tmp_path / "started"
    with subprocess.Popen(["make", "setup", "PYTHON=./python"], cwd=tmp_path, stderr=subprocess.DEVNULL) as make_setup:
        until(lambda: started.exists() and started.read_text().endswith("\n"))
        make_setup.terminate()
        make_setup.wait(20)
    set_up = int(started.read_text())
    until(lambda: not psutil.pid_exists(set_up) or psutil.Process(set_up).status() == psutil.STATUS_ZOMBIE)
