"""What the kernel counts shows that other programs want the CPUs too."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from skills.skill_draft.engine.contention import ContentionMeter


def test_the_kernel_shows_a_neighbour() -> None:
    """Twice as many programs as CPUs, this one among them: about half of the time it waits for one."""
    cpus = len(os.sched_getaffinity(0))
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2 * cpus)]
    try:
        time.sleep(0.5)
        meter = ContentionMeter()
        assert meter.look(time.monotonic()) is None, "too early"
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
