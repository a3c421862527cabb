"""A child process and its server: frames in both directions, and an end that is explained."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pytest

from skills.runtime.child import JSON
from skills.runtime.child_process import ChildGoneError, ChildProcess
from skills.runtime.child_start import start, start_early
from tests.servers import alive

MODULE = "tests.obedient_child"
T = TypeVar("T")


class Child(ChildProcess[tuple[dict[str, Any], bytes], tuple[dict[str, Any], bytes]]):
    codec = JSON


def with_child(use: Callable[[Child], Awaitable[T]]) -> T:
    async def run() -> T:
        child = await Child.connect(start(MODULE))
        try:
            return await use(child)
        finally:
            await child.end("the test ends")
            assert not alive(child.pid)

    return asyncio.run(run())


@pytest.mark.parametrize("size", [0, 1, 10_000_000])
def test_values_and_bytes_come_back_as_they_were_sent(size: int) -> None:
    sent = {"do": "echo", "text": "ein Stück\n", "numbers": [1, 2.5, None]}, os.urandom(size)
    assert with_child(lambda child: child.ask(sent)) == sent


def test_frames_that_are_sent_at_once_are_answered_in_their_order() -> None:
    async def use(child: Child) -> list[Any]:
        for number in range(100):
            child.send(({"do": "echo", "number": number}, b""))
        return [(await child.receive())[0]["number"] for _ in range(100)]

    assert with_child(use) == list(range(100))


@pytest.mark.parametrize(
    ("wish", "says", "by_the_kernel"),
    [({"do": "end", "code": 3}, "exit code 3", False), ({"do": "be killed"}, "SIGKILL, perhaps out of memory", True)],
)
def test_who_asks_a_child_that_dies_is_told_how_it_ended(wish: dict[str, Any], says: str, by_the_kernel: bool) -> None:
    with pytest.raises(ChildGoneError, match=says) as gone:
        with_child(lambda child: child.ask((wish, b"")))
    assert gone.value.ended
    assert gone.value.ended.perhaps_out_of_memory is by_the_kernel


def test_a_child_that_its_server_killed_did_not_run_out_of_memory() -> None:
    async def use(child: Child) -> None:
        child.kill("it is too slow")
        child.kill("and once more")
        with pytest.raises(ChildGoneError):
            await child.receive()
        ended = await child.ended()
        assert str(ended) == "killed: it is too slow"
        assert not ended.perhaps_out_of_memory

    with_child(use)


def test_a_child_is_killed_before_its_server_and_has_the_same_import_path() -> None:
    told, _ = with_child(lambda child: child.ask(({"do": "tell"}, b"")))
    assert int(told["adj"]) == 1000
    assert {entry or os.getcwd() for entry in sys.path} - {""} <= set(told["path"]) | {"."}  # noqa: PTH109


def test_a_child_that_was_started_early_is_taken_once_and_by_who_gives_it_the_same_variables() -> None:
    async def run() -> list[int]:
        start_early(MODULE, COLOUR="red")
        children = [await Child.connect(start(MODULE, COLOUR=colour)) for colour in ("blue", "red", "red")]
        pids = [child.pid for child in children]
        await asyncio.gather(*(child.end("the test ends") for child in children))
        return pids

    other, early, third = asyncio.run(run())
    assert early < other < third
