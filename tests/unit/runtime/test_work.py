"""The number of slots may change while calls hold them."""

from __future__ import annotations

import asyncio
import contextlib

from skills.runtime.work import Work


async def hold(work: Work, ends: asyncio.Event) -> None:
    async with work.slot():
        await ends.wait()


def test_more_workers_take_those_that_wait_at_once_and_fewer_let_the_running_ones_end() -> None:
    async def scenario() -> list[int]:
        work, seen = Work(workers=1, queue=100), []
        events = [asyncio.Event() for _ in range(6)]
        calls = [asyncio.create_task(hold(work, event)) for event in events]

        async def look() -> None:
            await asyncio.sleep(0.01)
            seen.append(work.active)

        await look()
        work.set_workers(4)
        await look()
        work.set_workers(2)
        await look()
        for event in events[:2]:
            event.set()
        await look()
        work.set_workers(3)
        await look()
        for event in events:
            event.set()
        await asyncio.gather(*calls)
        # No slot was lost or added: three of four further calls get one.
        calls += [asyncio.create_task(hold(work, asyncio.Event())) for _ in range(4)]
        await look()
        for call in calls:
            call.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await call
        return seen

    assert asyncio.run(scenario()) == [1, 4, 4, 2, 3, 3]
