"""Whether other programs want this process's CPUs, as the kernel counts it."""

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
    """What went on since the last look, in CPUs: seconds of it for each second of the clock."""

    waited: float
    """How long our threads were ready to run and had no core, a hypervisor's theft included."""
    idle: float
    """How long the CPUs that we may use had nothing to do."""


class ContentionMeter:
    """Reads the kernel's counters now and then: 0.1 ms a look."""

    def __init__(self) -> None:
        self._looked = time.monotonic()
        self._last = self._counters()
        self.counts = self._last is not None
        """Whether this kernel counts at all."""

    def look(self, now: float) -> Reading | None:
        """What is new; None where it is too early for that. `now` in seconds of `time.monotonic`."""
        elapsed = now - self._looked
        if elapsed < LOOK_EVERY_S or not self.counts:
            return None
        before, self._last, self._looked = self._last, self._counters(), now
        if before is None or self._last is None:
            return None
        # A thread that has ended takes its count along.
        waited, idle = (max(0.0, new - old) / elapsed for new, old in zip(self._last, before, strict=True))
        return Reading(waited, idle)

    def _counters(self) -> tuple[float, float] | None:
        """Seconds waited by all our threads, and seconds that our CPUs were idle, since they began."""
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
    except FileNotFoundError:  # it has just ended
        return 0
