"""What this process may use (CPUs and memory, container limits included), and what processes use."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")
_IMPORTED_S = time.monotonic()
_TICKS = os.sysconf("SC_CLK_TCK")


def _cgroup_folders(controller: str) -> Iterator[Path]:
    """Yield the folders whose limits apply to this process, from its own to the root: cgroup v2, then v1."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root = _CGROUP
        elif controller in controllers.split(","):
            root = _CGROUP / controller
        else:
            continue
        own = root / path.lstrip("/")
        # In a container the path is the host's, but the mount is already the container's own folder.
        yield from (folder for folder in (own, *own.parents) if folder.is_relative_to(root) and folder.is_dir())


def _number(path: Path) -> float:
    """Return the first number in a file; infinity if there is none, or no limit."""
    try:
        return float(path.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return math.inf


def cpu_quota() -> float:
    """Return how many CPUs this process may keep busy, by its affinity and the cgroup's quota."""
    quotas = [float(len(os.sched_getaffinity(0)))]
    for folder in _cgroup_folders("cpu"):
        try:
            quota, period = (folder / "cpu.max").read_text().split()
            quotas.append(float(quota) / float(period) if quota != "max" else math.inf)
        except (OSError, ValueError):
            micros = _number(folder / "cpu.cfs_quota_us")
            if micros > 0:
                quotas.append(micros / _number(folder / "cpu.cfs_period_us"))
    return min(quotas)


def usable_cpus() -> int:
    """Return the same in whole CPUs, at least 1."""
    return max(1, math.floor(cpu_quota() + 0.01))


def memory_limit() -> float:
    """Return the cgroup's memory limit in bytes; infinity if there is none."""
    limits = [math.inf]
    for folder in _cgroup_folders("memory"):
        limits += [_number(folder / "memory.max"), _number(folder / "memory.limit_in_bytes")]
    return min(limits)


def memory_size() -> float:
    """Return the bytes of which a share has to stay free: the cgroup's limit, or what the machine has left."""
    limit = memory_limit()
    return limit if limit < _meminfo("MemTotal") else memory_available()


def memory_kills() -> int:
    """Return how many processes the kernel has killed for memory under this process's limit, or on this machine.

    cgroup v2 and v1 count them for each group; without either, the machine's counter is taken.
    """
    for folder in _cgroup_folders("memory"):
        for name in ("memory.events", "memory.oom_control"):
            if (kills := _counter(folder / name, "oom_kill")) is not None:
                return kills
    return _counter(Path("/proc/vmstat"), "oom_kill") or 0


def _counter(path: Path, name: str) -> int | None:
    """Return a value from a file of names and numbers; None if there is none."""
    try:
        values = dict(line.split(maxsplit=1) for line in path.read_text().splitlines())
        return int(values[name])
    except (OSError, ValueError, KeyError):
        return None


def _meminfo(name: str) -> float:
    """Return a value of /proc/meminfo in bytes; infinity if it is missing."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return float(line.split()[1]) * 1024
    return math.inf


def memory_available() -> float:
    """Return the bytes that can be allocated without swapping or being killed, on the host and in the cgroup."""
    available = _meminfo("MemAvailable")
    for folder in _cgroup_folders("memory"):
        limit = min(_number(folder / "memory.max"), _number(folder / "memory.limit_in_bytes"))
        used = min(_number(folder / "memory.current"), _number(folder / "memory.usage_in_bytes"))
        if limit < 1 << 60 and used < math.inf:
            available = min(available, limit - max(0.0, used - _file_cache(folder)))
    return max(0.0, available)


def _file_cache(folder: Path) -> float:
    """Return the bytes of a cgroup that are page cache, which the kernel frees when memory is needed."""
    try:
        entries = (line.split() for line in (folder / "memory.stat").read_text().splitlines())
        stat = {name: float(value) for name, value in entries}
    except (OSError, ValueError):
        return 0.0
    return sum(stat.get(name, 0.0) for name in ("inactive_file", "active_file")) or sum(
        stat.get(name, 0.0) for name in ("total_inactive_file", "total_active_file")
    )


def anonymous_bytes(pids: Iterable[int]) -> int:
    """Return the memory that processes hold, RssAnon and VmSwap. Mapped files are not counted."""
    return sum(_status_bytes(pid, ("RssAnon:", "VmSwap:")) for pid in pids)


def reserved_bytes(pid: int) -> int:
    """Return the memory that a process has asked for, touched or not. Mapped files are not counted."""
    return _status_bytes(pid, ("VmData:",))


def _status_bytes(pid: int, names: tuple[str, ...]) -> int:
    """Return the sum of some entries of /proc/PID/status; 0 if the process has gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(names))


def cpu_seconds(pids: Iterable[int]) -> float:
    """Return the CPU time that processes have used, in seconds."""
    total = 0.0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        except (OSError, IndexError):
            continue
        total += (int(fields[11]) + int(fields[12])) / _TICKS
    return total


class MemoryMeter:
    """Memory that processes hold, read a few times a second at most: it takes a tenth of a millisecond."""

    def __init__(self) -> None:
        self._at, self._last = -math.inf, 0

    def bytes(self, pids: Iterable[int]) -> int:
        """Return `anonymous_bytes`; a reading within 0.25 s repeats the last one."""
        now = time.monotonic()
        if now - self._at >= 0.25:
            self._at, self._last = now, anonymous_bytes(pids)
        return self._last


def process_age_s() -> float:
    """Return the seconds since this process started; where /proc hides that, since it imported this module."""
    try:
        fields = Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()
        return time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / _TICKS
    except (OSError, IndexError):
        return time.monotonic() - _IMPORTED_S


class CpuMeter:
    """CPU use between two readings."""

    def __init__(self) -> None:
        self._at, self._used, self._last = time.monotonic(), 0.0, 0.0

    def percent(self, pids: Iterable[int]) -> float:
        """Return the percentage of one CPU since the last reading; a reading within 0.1 s repeats the last one."""
        now = time.monotonic()
        if now - self._at >= 0.1:
            used = cpu_seconds(pids)
            self._last = max(0.0, 100 * (used - self._used) / (now - self._at))
            self._at, self._used = now, used
        return self._last
