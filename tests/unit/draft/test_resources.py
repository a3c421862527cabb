"""What a process may use and does use, read from files in the kernel's formats."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest

from skills.runtime import resources


@pytest.fixture
def cgroup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Create a cgroup file system for the test; `own_cgroup` sets where this process is in it."""
    monkeypatch.setattr(resources, "_CGROUP", tmp_path)
    return tmp_path


def own_cgroup(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    read = Path.read_text
    monkeypatch.setattr(
        Path, "read_text", lambda self, *a, **k: text if str(self) == "/proc/self/cgroup" else read(self, *a, **k)
    )


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_quota_of_cgroup_v2(cgroup: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    own_cgroup(monkeypatch, "0::/a/b\n")
    write(cgroup / "a/cpu.max", "250000 100000\n")
    write(cgroup / "a/b/cpu.max", "max 100000\n")
    assert resources.usable_cpus() == 2


def test_quota_of_cgroup_v1(cgroup: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    own_cgroup(monkeypatch, "4:cpu,cpuacct:/docker/abc\n2:memory:/docker/abc\n")
    write(cgroup / "cpu/docker/abc/cpu.cfs_quota_us", "300000\n")
    write(cgroup / "cpu/docker/abc/cpu.cfs_period_us", "100000\n")
    assert resources.usable_cpus() == 3


def test_in_a_container_the_own_folder_is_the_root(cgroup: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    own_cgroup(monkeypatch, "4:cpu:/docker/not-mounted\n2:memory:/docker/not-mounted\n")
    write(cgroup / "cpu/cpu.cfs_quota_us", "150000\n")
    write(cgroup / "cpu/cpu.cfs_period_us", "100000\n")
    write(cgroup / "memory/memory.limit_in_bytes", "1000000\n")
    write(cgroup / "memory/memory.usage_in_bytes", "700000\n")
    write(cgroup / "memory/memory.stat", "total_inactive_file 200000\ntotal_active_file 50000\n")
    assert resources.usable_cpus() == 1
    assert resources.memory_limit() == 1_000_000
    assert resources.memory_available() == 1_000_000 - (700_000 - 250_000)


def test_no_quota_is_the_affinity(cgroup: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 5, 6})
    own_cgroup(monkeypatch, "4:cpu:/x\n")
    write(cgroup / "cpu/cpu.cfs_quota_us", "-1\n")
    write(cgroup / "cpu/cpu.cfs_period_us", "100000\n")
    assert resources.usable_cpus() == 3
    assert resources.memory_limit() == math.inf


def test_a_process_is_measured() -> None:
    ballast = bytearray(os.urandom(1 << 20)) * 40
    assert resources.anonymous_bytes([os.getpid()]) > len(ballast)
    assert resources.cpu_seconds([os.getpid()]) > 0
    assert resources.anonymous_bytes([2**22 + 1]) == 0, "a process that has ended uses nothing"


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("memory.events", "low 0\noom 3\noom_kill 2\n", "0::/a\n"),
        ("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n", "9:memory:/a\n"),
    ],
    ids=["v2", "v1"],
)
def test_kills_for_memory_are_counted_as_the_kernel_does(
    cgroup: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: str, line: str
) -> None:
    own_cgroup(monkeypatch, line)
    folder = cgroup / "memory/a" if "memory" in line else cgroup / "a"
    write(folder / name, content)
    assert resources.memory_kills() == 2


def test_the_size_is_the_limit_or_what_is_left_of_the_machine(cgroup: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own_cgroup(monkeypatch, "0::/a\n")
    write(cgroup / "a/memory.max", "max\n")
    left = resources.memory_available()
    assert abs(resources.memory_size() - left) < 0.2 * left
    write(cgroup / "a/memory.max", f"{300 << 20}\n")
    assert resources.memory_size() == 300 << 20
