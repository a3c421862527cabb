"""The host sees the same CPUs and memory as the skills' servers."""

from __future__ import annotations

import os

import pytest

from core.local.machine import Machine
from core.models.bandwidth import measure_bandwidth
from skills.runtime.resources import memory_available, usable_cpus


def test_it_sees_what_a_server_sees() -> None:
    machine = Machine.here()
    assert max(1, int(machine.quota + 0.01)) == usable_cpus()
    assert machine.memory_bytes == pytest.approx(memory_available(), rel=0.05)


def test_it_sees_the_cpus_that_this_process_may_use() -> None:
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert (Machine.here().cpus, Machine.here().quota <= 1) == (1, True)
    finally:
        os.sched_setaffinity(0, allowed)


def test_memory_is_measured_with_as_little_as_there_is() -> None:
    assert 1e8 < measure_bandwidth(2, most_bytes=0) < 1e13
