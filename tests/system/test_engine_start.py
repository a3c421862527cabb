"""The engine's early start: it imports nothing slow, and its process is used once."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from skills.runtime import child_start
from skills.skill_draft import engine_start


@pytest.fixture
def started() -> Iterator[list[child_start.Started]]:
    """Kill the processes in this list after the test."""
    processes: list[child_start.Started] = []
    yield processes
    for process, connection in processes:
        connection.close()
        process.kill()
        process.wait(10)


def test_it_imports_nothing_that_keeps_the_engine_waiting() -> None:
    code = (
        "import sys; from skills.skill_draft import engine_start; engine_start.start_early([]); "
        "print({'grpc', 'asyncio', 'numpy', 'llama_cpp', 'google', 'pickle', 'json'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.strip() == "set()"


def test_an_early_engine_is_taken_once_and_only_for_its_numerics(started: list[child_start.Started]) -> None:
    engine_start.start_early(["--numerics", "fast"])
    other = engine_start.start(engine_start.ENGINE_MODULE, "exact")
    early = engine_start.start(engine_start.ENGINE_MODULE, "fast")
    third = engine_start.start(engine_start.ENGINE_MODULE, "fast")
    started += [other, early, third]
    assert early[0].pid < other[0].pid < third[0].pid


def test_an_engine_that_is_not_wanted_ends_with_its_connection(started: list[child_start.Started]) -> None:
    engine_start.start_early([])
    process, connection = engine_start.start(engine_start.ENGINE_MODULE, "exact")
    started.append((process, connection))
    connection.close()
    assert process.wait(20) == 0


def test_wrong_arguments_start_nothing() -> None:
    engine_start.start_early(["--threads", "many"])
    assert not child_start._early
