"""The rows memory: regions never overlap, what is pinned stays, and what is freed goes back to the system."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from skills.skill_draft.rows_memory import Region, RowsMemory

PAGE = mmap.PAGESIZE
PAGES = 8


@pytest.fixture
def memory() -> Iterator[RowsMemory]:
    made = RowsMemory(PAGES * PAGE)
    yield made
    made.close()


def filled(memory: RowsMemory, key: bytes, pages: int, *pins: int) -> Region:
    region = memory.allocate(key, pages * PAGE)
    assert region is not None
    region.whole = True
    region.pins.update(pins)
    return region


def test_the_least_recently_used_makes_room(memory: RowsMemory) -> None:
    for key in (b"a", b"b", b"c", b"d"):
        filled(memory, key, 2)
    assert memory.find(b"a")
    filled(memory, b"e", 2)
    assert [key for key in (b"a", b"b", b"c", b"d", b"e") if memory.find(key)] == [b"a", b"c", b"d", b"e"]


def test_what_is_pinned_stays_and_there_is_no_room_then(memory: RowsMemory) -> None:
    filled(memory, b"a", 3, 1, 2)
    filled(memory, b"b", 2)
    filled(memory, b"c", 3, 1)
    assert memory.allocate(b"d", 3 * PAGE) is None
    assert memory.find(b"b"), "nothing goes for what does not fit anyway"
    memory.unpin(1)
    assert memory.allocate(b"d", 3 * PAGE) is not None
    assert (memory.find(b"a") is None, memory.find(b"c")) == (False, None)
    memory.unpin(2, b"a")
    memory.unpin(2, b"gone")


def test_rows_that_are_not_whole_are_not_found(memory: RowsMemory) -> None:
    memory.allocate(b"a", 1)
    assert memory.find(b"a") is None
    memory.free(b"a")
    assert memory.used == 0


def test_other_processes_open_it_by_its_path_and_freed_pages_go_back(memory: RowsMemory) -> None:
    region = filled(memory, b"a", 3)
    with Path(memory.path).open("r+b") as file:
        file.seek(region.offset)
        file.write(b"x" * region.size)
        file.flush()
        taken = os.fstat(file.fileno()).st_blocks
        memory.free(b"a")
        assert (taken, os.fstat(file.fileno()).st_blocks) == (3 * PAGE // 512, 0)
