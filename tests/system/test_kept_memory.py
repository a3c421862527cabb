"""The memory of kept answers, as the kernel counts it for a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import random, sys
from skills.runtime.answer_cache.kept import Entry
from skills.runtime.answer_cache.memory import TinyLfu

def anonymous():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("RssAnon:"))

bound, mean = int(sys.argv[1]), int(sys.argv[2])
sizes = random.Random(1)
for _ in range(1000):  # what the library and the allocator take once
    TinyLfu(1 << 20).put(sizes.randbytes(32), Entry(b"x" * 1000, 1.0))
memory, before, most = TinyLfu(bound), anonymous(), 0
for number in range(100_000):
    key = sizes.randbytes(32)
    memory.get(key)
    memory.put(key, Entry(b"x" * (int(sizes.lognormvariate(0, 1) * mean) + 1), 1.0))
    if number % 200 == 0:
        most = max(most, anonymous() - before)
print(most / bound, memory.size()[1] / bound)
"""


@pytest.mark.parametrize(("bound_mb", "mean_bytes"), [(64, 1500), (16, 300), (64, 30_000)])
def test_a_hundred_thousand_answers_stay_within_the_bound(bound_mb: int, mean_bytes: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(bound_mb << 20), str(mean_bytes)],
        capture_output=True, text=True, timeout=100, check=True,
    )  # fmt: skip
    most, full = (float(number) for number in done.stdout.split())
    print(f"{bound_mb} MB, answers of {mean_bytes} bytes: {most:.3f} of the bound at most")
    assert most <= 1.05
    assert full > 0.9
