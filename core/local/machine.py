"""The CPUs and memory that this process may use, cgroup limits included."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

from skills.runtime.resources import cpu_quota, memory_available


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
        return cls(features=_features(), cpus=cpus, quota=cpu_quota(), memory_bytes=memory_available())


def _features() -> frozenset[str]:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("flags", "Features")):
                return frozenset(line.partition(":")[2].split())
    return frozenset()
