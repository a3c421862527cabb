"""The host sees its CPUs; its memory is measured."""

from __future__ import annotations

import os

from core.local.machine import Machine
from core.models.bandwidth import measure_bandwidth


def test_it_sees_the_cpus_that_this_process_may_use() -> None:
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert (Machine.here().cpus, Machine.here().quota <= 1) == (1, True)
    finally:
        os.sched_setaffinity(0, allowed)


def test_memory_is_measured_with_as_little_as_there_is() -> None:
    assert 1e8 < measure_bandwidth(2, most_bytes=0) < 1e13
