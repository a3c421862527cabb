"""The vision process at the tiny model's tower: its rows, its deaths, its deadlines, and that it works for no one."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from skills.runtime.resources import anonymous_bytes
from skills.skill_draft.engine.messages import Failed, FailureKind, Image, Rows, RowsRead, WantRows
from skills.skill_draft.image_rows import ImageRows, Source
from skills.skill_draft.rows_memory import RowsMemory
from skills.skill_draft.supervisor_events import Encoding, Event, RowsFailed
from skills.skill_draft.vision.pixels import read_pixels
from skills.skill_draft.vision_process import VISION_MODULE, BadImageError, Vision, VisionConfig, VisionError
from tests import vision_with_faults
from tests.pictures import encoded, gradient, quarters
from tests.servers import TINY, alive
from tests.vision import MMPROJ, ROW_WIDTH, SAMPLES, reference_rows, sample

CIRCLE, SQUARE = sample("red-circle-left"), sample("green-square-right")
ROW_BYTES = 4 * ROW_WIDTH


class House:
    """A rows memory, a vision process, and what serves rows from them to an engine that a test plays."""

    def __init__(self, module: str, mmproj: Path, **changes: float) -> None:
        self.memory = RowsMemory(64 * ROW_BYTES)

        async def config() -> VisionConfig:
            return VisionConfig(
                model=str(TINY), mmproj=str(mmproj), mmproj_sha256="ab" * 32, row_width=ROW_WIDTH,
                rows_path=self.memory.path, threads=1,
            )  # fmt: skip

        times = {"read_timeout_s": 30.0, "encode_timeout_s": 60.0, "idle_s": 60.0, **changes}
        self.vision = Vision(config, module=module, **times)
        self.rows = ImageRows(self.memory, self.vision, row_width=ROW_WIDTH, token_s=1.0)
        self.told: list[Event] = []

    @property
    def pid(self) -> int:
        (pid,) = self.vision.pids
        return pid

    def in_memory(self, offset: int, n_tokens: int) -> np.ndarray[Any, np.dtype[np.float32]]:
        with Path(self.memory.path).open("rb") as file:
            file.seek(offset)
            return np.frombuffer(file.read(n_tokens * ROW_BYTES), np.float32).reshape(n_tokens, ROW_WIDTH)

    async def enter(self, id_: int, *files: bytes) -> list[Image]:
        images = [await self.vision.read(data, 576) for data in files]
        sources = {
            image.key: Source(image=image, data=data, max_tokens=576, field=f"image {i}")
            for i, (image, data) in enumerate(zip(images, files, strict=True))
        }
        self.rows.enter(id_, sources)
        return images

    def want(self, id_: int, image: Image) -> None:
        self.rows.want(WantRows(id=id_, image=image), self.told.append)

    def heard(self, kind: type) -> list[Any]:
        return [event for event in self.told if isinstance(event, kind)]

    async def until(self, condition: Callable[[], object], timeout_s: float = 30) -> None:
        end_s = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < end_s, self.told
            await asyncio.sleep(0.005)


@asynccontextmanager
async def house(module: str = VISION_MODULE, mmproj: Path = MMPROJ, **changes: float) -> AsyncIterator[House]:
    made = House(module, mmproj, **changes)
    try:
        yield made
    finally:
        await made.vision.close()
        await made.rows.close()


@pytest.fixture
def marks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder in which faults are noted."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(test)


@pytest.mark.parametrize("name", sorted(path.stem for path in SAMPLES.glob("*.png"))[::4])
def test_rows_are_those_of_the_bindings_for_the_same_pixels(name: str) -> None:
    async def test() -> None:
        async with house() as h:
            image = await h.vision.read(sample(name), 576)
            await h.vision.encode(sample(name), 576, 4096)
            pixels = read_pixels(sample(name), 576)
            assert (image.across, image.down, image.key) == (pixels.across, pixels.down, pixels.key(b"\xab" * 32))
            wanted = reference_rows(*pixels.size, pixels.data)
            assert len(wanted) == image.n_tokens
            assert np.array_equal(h.in_memory(4096, image.n_tokens), wanted)

    run(test())


def test_rows_are_the_same_after_another_image_and_after_a_death() -> None:
    async def test() -> None:
        async with house() as h:
            for offset, data in enumerate((CIRCLE, encoded(quarters(320, 64)), CIRCLE)):
                await h.vision.encode(data, 20, offset * 20 * ROW_BYTES)
            os.kill(h.pid, signal.SIGKILL)
            await h.vision.encode(CIRCLE, 20, 3 * 10 * ROW_BYTES)
            first, again, anew = (h.in_memory(n * ROW_BYTES, 9) for n in (0, 40, 30))
            assert np.array_equal(first, again)
            assert np.array_equal(first, anew)
            assert np.abs(first).max() > 0

    run(test())


def test_a_process_does_not_grow_with_the_images_that_it_has_encoded() -> None:
    async def test() -> None:
        async with house() as h:
            for _ in range(250):
                await h.vision.encode(CIRCLE, 576, 0)
            warm = anonymous_bytes(h.vision.pids)
            for _ in range(500):
                await h.vision.encode(CIRCLE, 576, 0)
            # Pixels and rows of an image have 40 KB together.
            assert anonymous_bytes(h.vision.pids) - warm < 500 * 4_000

    run(test())


def test_images_are_read_while_one_is_encoded() -> None:
    async def test() -> None:
        async with house(vision_with_faults.MODULE) as h:
            long = asyncio.create_task(h.vision.encode(b"L" + CIRCLE, 576, 0))
            for data in (CIRCLE, SQUARE):
                assert (await h.vision.read(data, 576)).n_tokens == 9
            assert not long.done()
            pid = h.pid
            long.cancel()
            await asyncio.wait({long})
            await h.until(lambda: not alive(pid))

    run(test())


@pytest.mark.parametrize("how", ["R", "E"])
def test_an_image_that_ends_two_processes_is_given_up_and_others_are_not(how: str) -> None:
    async def test() -> None:
        async with house(vision_with_faults.MODULE) as h:
            bad = how.encode() + CIRCLE
            deadly = asyncio.create_task(h.vision.read(bad, 576) if how == "R" else h.vision.encode(bad, 576, 0))
            others = [asyncio.create_task(h.vision.read(data, 576)) for data in (CIRCLE, SQUARE)]
            with pytest.raises(BadImageError, match="ended 2 processes"):
                await deadly
            assert [image.n_tokens for image in await asyncio.gather(*others)] == [9, 9]
            await h.vision.encode(SQUARE, 576, 0)

    run(test())


@pytest.mark.usefixtures("marks")
@pytest.mark.parametrize("how", ["r", "e"])
def test_an_image_during_which_one_process_died_is_done_by_the_next_one(how: str) -> None:
    async def test() -> None:
        async with house(vision_with_faults.MODULE) as h:
            bad = how.encode() + CIRCLE
            if how == "r":
                assert (await h.vision.read(bad, 576)).n_tokens == 9
            else:
                await h.vision.encode(bad, 576, 0)
                assert np.array_equal(h.in_memory(0, 9), reference_rows(96, 96, read_pixels(CIRCLE, 576).data))

    run(test())


def test_a_deadline_ends_the_process_and_another_image_fares_well() -> None:
    async def test() -> None:
        async with house(vision_with_faults.MODULE, read_timeout_s=1.0, encode_timeout_s=1.5) as h:
            with pytest.raises(BadImageError, match="given up after 1 s of reading"):
                await h.vision.read(b"S" + CIRCLE, 576)
            with pytest.raises(BadImageError, match=r"given up after 1.5 s of encoding"):
                await h.vision.encode(b"L" + CIRCLE, 576, 0)
            assert (await h.vision.read(CIRCLE, 576)).n_tokens == 9

    run(test())


def test_the_process_starts_with_the_first_image_and_ends_when_idle() -> None:
    async def test() -> None:
        async with house(idle_s=0.3) as h:
            assert h.vision.pids == ()
            await h.vision.read(CIRCLE, 576)
            pid = h.pid
            await h.until(lambda: not h.vision.pids)
            assert not alive(pid)
            assert (await h.vision.read(SQUARE, 576)).n_tokens == 9
            assert h.pid != pid

    run(test())


def test_what_is_no_image_is_said_and_costs_no_process() -> None:
    async def test() -> None:
        async with house() as h:
            await h.vision.read(CIRCLE, 576)
            pid = h.pid
            for bad in (b"", b"GIF89a", CIRCLE[:80], encoded(gradient(2, 600))):
                with pytest.raises(BadImageError):
                    await h.vision.read(bad, 576)
            assert h.pid == pid

    run(test())


def test_a_tower_that_cannot_be_opened_is_the_servers_problem_not_the_images() -> None:
    async def test() -> None:
        async with house(mmproj=TINY) as h:
            with pytest.raises(VisionError, match=r"cannot load tiny-qwen3vl-q8_0\.gguf"):
                await h.vision.encode(CIRCLE, 576, 0)

    run(test())


# --- what engines are served ---


def test_requests_for_the_same_image_share_one_encoding_and_the_next_finds_it() -> None:
    async def test() -> None:
        async with house() as h:
            (image,) = await h.enter(1, CIRCLE)
            await h.enter(2, CIRCLE)
            h.want(1, image)
            h.want(2, image)
            await h.until(lambda: len(h.heard(Rows)) == 2)
            first, second = h.heard(Rows)
            assert (first.id, second.id, first.offset) == (1, 2, second.offset)
            assert np.array_equal(
                h.in_memory(first.offset, 9), reference_rows(96, 96, read_pixels(CIRCLE, 576).data)
            )  # fmt: skip
            await h.enter(3, CIRCLE)
            h.want(3, image)
            assert [rows.id for rows in h.heard(Rows)] == [1, 2, 3], "at once"
            assert h.rows.encoded == 1
            told = h.heard(Encoding)[0]
            assert (told.id, told.images, told.wait_s) == (1, 1, pytest.approx(9, abs=0.5))

    run(test())


def test_full_memory_makes_the_next_image_wait_until_rows_are_read() -> None:
    async def test() -> None:
        async with house() as h:
            large, larger = encoded(gradient(256, 128)), encoded(quarters(256, 256))
            (one,) = await h.enter(1, large)
            (two,) = await h.enter(2, larger)
            assert (one.n_tokens, two.n_tokens) == (32, 64)
            h.want(1, one)
            h.want(2, two)
            await h.until(lambda: h.heard(Rows))
            await asyncio.sleep(0.2)
            assert [rows.id for rows in h.heard(Rows)] == [1]
            h.rows.release(RowsRead(id=1, key=one.key))
            await h.until(lambda: len(h.heard(Rows)) == 2)

    run(test())


def test_an_encoding_that_no_request_waits_for_is_ended_and_one_with_others_goes_on() -> None:
    async def test() -> None:
        async with house(vision_with_faults.MODULE) as h:
            (image,) = await h.enter(1, b"L" + CIRCLE)
            await h.enter(2, b"L" + CIRCLE)
            (other,) = await h.enter(3, SQUARE)
            for id_, wanted in ((1, image), (2, image), (3, other)):
                h.want(id_, wanted)
            await h.until(lambda: h.rows._encoding)
            pid = h.pid
            h.rows.leave(1)
            await asyncio.sleep(0.3)
            assert alive(pid)
            h.rows.leave(2)
            await h.until(lambda: h.heard(Rows))
            assert not alive(pid)
            assert ([rows.id for rows in h.heard(Rows)], h.rows.encoded) == ([3], 1)

    run(test())


def test_an_engine_that_dies_finds_the_rows_that_it_waited_for() -> None:
    async def test() -> None:
        async with house() as h:
            (image,) = await h.enter(1, CIRCLE)
            h.want(1, image)
            h.rows.release(None)
            await h.until(lambda: h.rows.encoded)
            assert h.heard(Rows) == [], "the dead one is told nothing"
            h.want(1, image)
            assert [rows.id for rows in h.heard(Rows)] == [1]
            assert h.rows.encoded == 1

    run(test())


def test_an_image_that_cannot_be_encoded_fails_its_requests_alone_with_its_field() -> None:
    async def test() -> None:
        async with house(vision_with_faults.MODULE) as h:
            _, image = await h.enter(1, SQUARE, b"E" + CIRCLE)
            (other,) = await h.enter(2, SQUARE)
            h.want(1, image)
            h.want(2, other)
            await h.until(lambda: h.heard(Rows) and h.heard(RowsFailed))
            (failed,) = h.heard(RowsFailed)
            wanted = Failed(
                id=1, kind=FailureKind.INVALID, message="ended 2 processes that were encoding it", field="image 1"
            )
            assert (failed.failed, h.memory.used) == (wanted, 16384)

    run(test())
