"""A scrape runs in another thread, and never sees a skill's state change while it reads."""

from __future__ import annotations

import asyncio
import threading
import time
import urllib.error
import urllib.request
from collections import deque

import pytest

from skills.runtime import metrics as module
from skills.runtime.metrics import Metrics, Reading
from tests.servers import free_port


def scrape(address: str) -> dict[str, float]:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=20) as page:
        lines = [line.rsplit(" ", 1) for line in page.read().decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in lines}


def test_what_is_read_does_not_grow_on_the_way() -> None:
    recent: deque[int] = deque()
    readers = set()

    def read() -> list[Reading]:
        readers.add(threading.current_thread())
        total = 0
        for number in recent:
            time.sleep(0.001)  # leaves another thread time to change it
            total += number
        return [Reading("sum_total", "Of what is recent", float(total))]

    async def grow() -> None:
        while True:
            recent.append(1)
            await asyncio.sleep(0.001)

    async def run() -> None:
        metrics = Metrics(read)
        metrics.serve(address := f"127.0.0.1:{free_port()}")
        growing = asyncio.create_task(grow())
        for _ in range(10):
            await asyncio.sleep(0.02)
            assert (await asyncio.to_thread(scrape, address))["sum_total"] > 0
        growing.cancel()

    asyncio.run(run())
    assert readers == {threading.main_thread()}


def test_a_scrape_of_a_server_that_hangs_fails_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PATIENCE_S", 0.2)

    async def run() -> None:
        Metrics(list).serve(address := f"127.0.0.1:{free_port()}")
        scraping = asyncio.create_task(asyncio.to_thread(scrape, address))
        await asyncio.sleep(0)
        time.sleep(1)  # noqa: ASYNC251 - the loop hangs
        with pytest.raises(urllib.error.HTTPError) as failed:
            await scraping
        failed.value.close()

    asyncio.run(run())
