"""CPU contention: whether other programs compete for this process's CPUs, by the kernel's counters."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

LOOK_EVERY_S = 0.25
_TASKS = Path("/proc/self/task")
_TICKS = os.sysconf("SC_CLK_TCK")
# Columns of a CPU's line in /proc/stat, after its name.
_IDLE, _IOWAIT, _STEAL = 3, 4, 7


@dataclass(frozen=True, slots=True)
class Reading:
    """CPU use since the last reading, in CPUs: CPU seconds per second."""

    waited: float
    """How long our threads were runnable without a core, steal time included."""
    idle: float
    """How long the CPUs of our affinity mask were idle."""


class ContentionMeter:
    """Samples the kernel's counters; a sample takes 0.1 ms."""

    def __init__(self) -> None:
        self._looked = time.monotonic()
        self._last = self._counters()
        self.counts = self._last is not None
        """Whether this kernel provides the counters."""

    def look(self, now: float) -> Reading | None:
        """Return the next reading; None before `LOOK_EVERY_S` have passed. `now` is in seconds of `time.monotonic`."""
        elapsed = now - self._looked
        if elapsed < LOOK_EVERY_S or not self.counts:
            return None
        before, self._last, self._looked = self._last, self._counters(), now
        if before is None or self._last is None:
            return None
        # A thread that has ended takes its count with it, so a difference may be negative.
        waited, idle = (max(0.0, new - old) / elapsed for new, old in zip(self._last, before, strict=True))
        return Reading(waited, idle)

    def _counters(self) -> tuple[float, float] | None:
        """Return the seconds that all our threads have waited and our CPUs have been idle, in total."""
        try:
            cpus = {f"cpu{i}" for i in os.sched_getaffinity(0)}
            rows = [line.split() for line in Path("/proc/stat").read_text(encoding="ascii").splitlines()]
            ours = [[int(column) for column in row[1:]] for row in rows if row[0] in cpus]
            waited = sum(_waited_ns(task) for task in _TASKS.iterdir()) / 1e9
            return waited + sum(cpu[_STEAL] for cpu in ours) / _TICKS, sum(
                cpu[_IDLE] + cpu[_IOWAIT] for cpu in ours
            ) / _TICKS
        except (OSError, ValueError, IndexError):
            return None


def _waited_ns(task: Path) -> int:
    try:
        return int((task / "schedstat").read_text(encoding="ascii").split()[1])
    except FileNotFoundError:  # the thread has just ended
        return 0
