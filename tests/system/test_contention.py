"""The kernel's counters show CPU contention."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from skills.skill_draft.engine.contention import ContentionMeter


def test_the_kernel_shows_a_neighbour() -> None:
    """Two busy programs per CPU and this one: it spends more than half of the time waiting for a CPU."""
    cpus = len(os.sched_getaffinity(0))
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2 * cpus)]
    try:
        time.sleep(0.5)
        meter = ContentionMeter()
        assert meter.look(time.monotonic()) is None, "it is too early for a reading"
        end = time.monotonic() + 1.0
        while time.monotonic() < end:
            pass
        reading = meter.look(time.monotonic())
    finally:
        for process in busy:
            process.kill()
            process.wait()
    assert reading is not None
    assert reading.waited > 0.25
    assert reading.idle < 0.2
