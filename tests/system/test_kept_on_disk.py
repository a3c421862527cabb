"""Answers in a file: they outlive the server, and whatever happens to the file is a miss and one line."""

from __future__ import annotations

import asyncio
import hashlib
import resource
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import pytest

from skills.runtime.answer_cache import AnswerCache, Tier
from skills.runtime.answer_cache.disk import DiskTier
from skills.runtime.answer_cache.kept import Entry
from skills.runtime.settings import CachingSettings

ENTRY = Entry(b"an answer of some length, " * 100, 1_700_000_000.0)
_T = TypeVar("_T")


def key(number: int) -> bytes:
    return hashlib.sha256(number.to_bytes(8, "big")).digest()


@asynccontextmanager
async def tier_in(path: Path, max_bytes: int = 8 << 20, secret: bytes | None = None) -> AsyncIterator[DiskTier]:
    tier = DiskTier(path, max_bytes, secret)
    await tier.start()
    try:
        yield tier
    finally:
        await tier.close()


def with_tier(path: Path, use: Callable[[DiskTier], Awaitable[_T]], max_bytes: int = 8 << 20) -> _T:
    async def used() -> _T:
        async with tier_in(path, max_bytes) as tier:
            return await use(tier)

    return asyncio.run(used())


async def fill(tier: DiskTier, numbers: range = range(100)) -> None:
    for number in numbers:
        tier.put(key(number), ENTRY)
    await written(tier)


async def written(tier: DiskTier) -> None:
    await asyncio.wrap_future(tier._thread.submit(lambda: None))


async def found(tier: DiskTier, numbers: range = range(100)) -> list[int]:
    return [number for number in numbers if await tier.get(key(number)) == ENTRY]


def test_answers_outlive_the_server_and_only_its_owner_may_read_them(tmp_path: Path) -> None:
    path = tmp_path / "made" / "answers"
    settings = CachingSettings(cache_disk=str(path))

    async def before() -> None:
        cache = AnswerCache(settings)
        await cache.start()
        cache.put(key(1), b"answer")
        await asyncio.to_thread(time.sleep, 0.05)
        assert {file.stat().st_mode & 0o777 for file in path.parent.iterdir()} == {0o600}
        await cache.close()

    async def after() -> None:
        cache = AnswerCache(settings)
        await cache.start()
        assert cache.in_memory(key(1)) is None
        kept = await cache.get(key(1))
        assert kept is not None
        assert (kept.value, kept.tier, cache.stats.disk_hits) == (b"answer", Tier.DISK, 1)
        assert cache.in_memory(key(1)) is not None
        assert (await cache.clear())[0] == 1
        assert await cache.get(key(1)) is None
        await cache.close()

    asyncio.run(before())
    asyncio.run(after())
    assert b"answer" not in path.read_bytes().replace(b"answers", b"")


def test_the_file_never_grows_over_its_bound_and_what_is_used_stays(tmp_path: Path) -> None:
    path, bound = tmp_path / "answers", 1 << 20

    async def use(tier: DiskTier) -> None:
        for number in range(3000):
            tier.put(key(number), Entry(ENTRY.value + hashlib.sha512(key(number)).digest() * (number % 50), 1.0))
            if number % 20 == 0:
                await written(tier)
                assert await tier.get(key(0)) is not None
                assert path.stat().st_size <= bound
                assert path.with_name("answers-wal").stat().st_size <= 4 << 20
        await written(tier)
        assert await tier.get(key(2999)) is not None
        assert await tier.get(key(1)) is None
        tier.put(key(5000), Entry(hashlib.sha512(b"").digest() * (bound // 64), 1.0))  # the same bytes: compressible

    with_tier(path, use, bound)
    assert path.stat().st_size <= bound


def test_a_lower_bound_shrinks_the_file(tmp_path: Path) -> None:
    path = tmp_path / "answers"

    async def use(tier: DiskTier) -> None:
        for number in range(400):
            tier.put(key(number), Entry(b"".join(key(part * 1000 + number) for part in range(200)), 1.0))
        await written(tier)
        assert await tier.get(key(399)) is not None

    with_tier(path, use)
    assert path.stat().st_size > 2 << 20

    async def look(tier: DiskTier) -> Entry | None:
        return await tier.get(key(399))

    assert with_tier(path, look, 1 << 20) is not None
    assert path.stat().st_size <= 1 << 20


def test_killed_in_mid_write_all_that_is_found_is_whole(tmp_path: Path) -> None:
    program = (
        "import asyncio, hashlib, sys\nfrom pathlib import Path\n"
        "from skills.runtime.answer_cache.disk import DiskTier\nfrom skills.runtime.answer_cache.kept import Entry\n"
        "async def main():\n"
        "    tier = DiskTier(Path(sys.argv[1]), 64 << 20)\n    await tier.start()\n"
        "    for number in range(10**6):\n"
        "        key = hashlib.sha256(number.to_bytes(8, 'big')).digest()\n"
        "        tier.put(key, Entry(key * 300, 1.0))\n        await tier.get(key)\n        print(number, flush=True)\n"
        "asyncio.run(main())\n"
    )
    path = tmp_path / "answers"
    with subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) == 300:
                break
        process.kill()

    async def look(tier: DiskTier) -> None:
        for number in range(300):
            assert await tier.get(key(number)) == Entry(key(number) * 300, 1.0)

    with_tier(path, look)


@pytest.mark.parametrize("damage", ["no database", "pages", "cut", "another format"])
def test_a_damaged_file_is_moved_aside_and_told_of_once(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "answers"
    with_tier(path, fill)
    content = bytearray(path.read_bytes())
    if damage == "no database":
        content[:100] = bytes(range(100))
    elif damage == "pages":
        content[4096:] = bytes([0x5A]) * (len(content) - 4096)
    elif damage == "cut":
        del content[len(content) // 2 :]
    path.write_bytes(content)
    if damage == "another format":
        with sqlite3.connect(path) as file:
            file.execute("PRAGMA user_version = 77")
        file.close()

    async def use(tier: DiskTier) -> list[int]:
        await found(tier)
        await fill(tier)
        await fill(tier)
        return await found(tier)

    assert with_tier(path, use) == list(range(100))
    assert path.with_name("answers.damaged").exists()
    assert [record.message for record in caplog.records if "is damaged" in record.message] == [
        record.message for record in caplog.records
    ][:1]


def test_a_flipped_byte_a_swapped_entry_and_another_secret_are_misses(tmp_path: Path) -> None:
    path = tmp_path / "answers"
    with_tier(path, fill)
    file = sqlite3.connect(path)
    (sealed,) = file.execute("SELECT sealed FROM answers WHERE key = ?", (key(0),)).fetchone()
    for at in range(len(sealed)):
        flipped = sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :]
        file.execute("INSERT OR REPLACE INTO answers VALUES (?, 1, ?)", (key(0), flipped))
        file.commit()
        if at % 10 == 0 or at < 73:
            assert with_tier(path, lambda tier: tier.get(key(0))) is None
    file.execute("UPDATE answers SET sealed = ? WHERE key = ?", (sealed, key(1)))
    file.commit()
    file.close()
    assert with_tier(path, lambda tier: tier.get(key(1))) is None
    assert with_tier(path, lambda tier: tier.get(key(2))) == ENTRY

    async def with_secret() -> Entry | None:
        async with tier_in(path, secret=b"the deployment's") as tier:
            return await tier.get(key(2))

    assert asyncio.run(with_secret()) is None


def test_a_full_disk_is_told_of_once_and_what_is_there_is_still_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "answers"
    caplog.set_level("INFO", "sarai.runtime")

    async def use(tier: DiskTier) -> None:
        await fill(tier, range(20))
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        size = max(each.stat().st_size for each in (path, path.with_name("answers-wal")))
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            await fill(tier, range(100, 2000))
            assert await found(tier, range(20)) == list(range(20))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        await fill(tier, range(2000, 2010))
        assert await found(tier, range(2000, 2010)) == list(range(2000, 2010))

    with_tier(path, use)
    lines = [record.message for record in caplog.records]
    assert len(lines) == 2, lines
    assert "cannot be used just now" in lines[0]
    assert "can be used again" in lines[1]


def test_a_disk_that_hangs_holds_up_one_call_for_a_tenth_of_a_second(tmp_path: Path) -> None:
    async def use(tier: DiskTier) -> None:
        await fill(tier)
        tier._thread.submit(lambda: time.sleep(1.5))
        paid = []
        for number in range(50):
            began_s = time.monotonic()
            assert await tier.get(key(number)) is None
            paid.append(time.monotonic() - began_s)
        assert sum(seconds > 0.02 for seconds in paid) == 1
        assert max(paid) < 0.2
        await asyncio.sleep(1.6)
        assert await found(tier) == list(range(100))

    with_tier(tmp_path / "answers", use)


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("no folder")

    async def use(tier: DiskTier) -> list[int]:
        await fill(tier)
        return await found(tier)

    assert with_tier(tmp_path / "file" / "answers", use) == []
    assert len(caplog.records) == 1


def test_another_programs_database_is_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "answers"
    file = sqlite3.connect(path)
    file.execute("CREATE TABLE theirs (what TEXT)")
    file.close()

    async def use(tier: DiskTier) -> list[int]:
        await fill(tier)
        return await found(tier)

    assert with_tier(path, use) == []
    assert [each.name for each in tmp_path.iterdir() if "damaged" in each.name] == []
    assert ["another program's" in record.message for record in caplog.records] == [True]
