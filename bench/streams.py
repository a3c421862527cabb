"""Four text streams that run while something else arrives, and the gaps between their tokens."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from bench.prompting import WRITE_ON
from bench.site import Site
from bench.wire import Answer, ask

STREAMS = 4
SETTLED_TOKENS = 8
_TIMEOUT_S = 240.0


@asynccontextmanager
async def four_streams(site: Site) -> AsyncIterator[list[Answer]]:
    """Keep four streams running; the block begins once all of them have some tokens. Yields their answers."""
    streams: list[Answer] = []

    async def keep_streaming(i: int) -> None:
        # The first answers end at different times, so that a prompt that waits for a free slot meets running streams.
        length = site.sizes.stream_new * (i + 1) // STREAMS
        while True:
            streams.append(Answer(start=0.0))
            prompt = f"{site.prompts.of_length(64)} {WRITE_ON}"
            await site.client.ask(ask(prompt, length), streams[-1])
            length = site.sizes.stream_new

    tasks = [asyncio.create_task(keep_streaming(i)) for i in range(STREAMS)]
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            while sum(len(s.times) >= SETTLED_TOKENS for s in streams) < STREAMS:
                if broken := [t for t in tasks if t.done()]:
                    await broken[0]
                await asyncio.sleep(0.02)
            yield streams
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def gaps_s(streams: Sequence[Answer], start: float, end: float) -> list[float]:
    """Return the times between arrivals that overlap [start, end]; tokens that arrive together are one arrival."""
    pairs = [pair for stream in streams for pair in itertools.pairwise(stream.times)]
    return [after - before for before, after in pairs if after > before and after > start and before < end]


def longest_gap_s(streams: Sequence[Answer], start: float, end: float) -> float:
    """Return the longest of them; 0 where there is none."""
    return max(gaps_s(streams, start, end), default=0.0)
