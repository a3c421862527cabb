"""The CPUs and memory that this process may use, cgroup limits included."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A machine as this process sees it."""

    features: frozenset[str]
    """CPU flags as Linux names them; empty if unknown."""
    cpus: int
    """CPUs that this process may run on."""
    quota: float
    """CPUs that it may keep busy: `cpus`, or less under a quota."""
    memory_bytes: float
    """Memory that can be allocated now, under all limits."""

    @classmethod
    def here(cls) -> Machine:
        """Inspect this machine."""
        cpus = len(os.sched_getaffinity(0))
        return cls(
            features=_features(), cpus=cpus, quota=min([cpus, *_quotas()]), memory_bytes=_memory()
        )  # fmt: skip


def _features() -> frozenset[str]:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("flags", "Features")):
                return frozenset(line.partition(":")[2].split())
    return frozenset()


def _groups(controller: str) -> Iterator[Path]:
    """Yield the cgroups whose limits apply to this process, versions 1 and 2."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers or controller in controllers.split(","):
            root = _CGROUPS / controller if controllers else _CGROUPS
            own = root / path.lstrip("/")
            yield from (folder for folder in (own, *own.parents) if folder.is_relative_to(root))


def _numbers(path: Path) -> list[float]:
    """Return the numbers in a file; none if it is missing or contains `max`."""
    with contextlib.suppress(OSError, ValueError):
        return [float(word) for word in path.read_text().split()]
    return []


def _quotas() -> Iterator[float]:
    for group in _groups("cpu"):
        if len(both := _numbers(group / "cpu.max")) == 2:
            yield both[0] / both[1]
        quota, period = (_numbers(group / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
        if quota and period and quota[0] > 0:
            yield quota[0] / period[0]


def _memory() -> float:
    """Return the kernel's MemAvailable, or less where a group's limit leaves less."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    left = [float(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    for group in _groups("memory"):
        for limit, used in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
            for most, now in zip(_numbers(group / limit), _numbers(group / used), strict=False):
                left.append(most - now + _file_cache(group))
    return min(left)


def _file_cache(group: Path) -> float:
    """Return the page cache of a group, which the kernel frees on demand, bytes."""
    with contextlib.suppress(OSError, ValueError):
        words = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return max(float(words.get(f"{prefix}inactive_file", 0)) for prefix in ("", "total_"))
    return 0.0
