"""Time limits for other processes, which do not expire while this one is stopped too.

`docker pause`, Ctrl-Z or a frozen cgroup suspend a server together with its workers. By the clock, a worker has then
been silent all that time, although it could not send anything. So waiting is counted in short ticks, and a tick from
which this process returns late counts for little more than its nominal length.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

TICK_S = 0.25
_MOST = 2.0  # multiple of its length that a tick counts at most


async def tick(length_s: float = TICK_S) -> float:
    """Sleep for one tick; return how many seconds of it count as waiting."""
    begin_s = time.monotonic()
    await asyncio.sleep(length_s)
    return min(time.monotonic() - begin_s, _MOST * length_s)


@asynccontextmanager
async def patience(timeout_s: float) -> AsyncIterator[None]:
    """Raise `TimeoutError` after `timeout_s` like `asyncio.timeout`, but count only time in which this process ran."""
    async with asyncio.timeout(None) as limit:
        waiting = asyncio.create_task(_run_out(limit, timeout_s))
        try:
            yield
        finally:
            waiting.cancel()


async def _run_out(limit: asyncio.Timeout, left_s: float) -> None:
    while left_s > 0:
        left_s -= await tick(min(TICK_S, left_s))
    limit.reschedule(0)  # in the past
