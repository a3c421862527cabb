"""(i) Callers who arrive one after the other: at random (a Poisson process), or in bursts a few milliseconds apart."""

from __future__ import annotations

import asyncio
import itertools
import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

from bench.prompting import WRITE_ON, Prompts
from bench.site import Figures, Site
from bench.sizes import Sizes
from bench.wire import Answer, Ask, Client, ask

BURST_S = 0.004  # between two callers of a burst, on average
ARRIVALS = ("burst", "poisson")


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """A request and the time to send it, in seconds after the first one."""

    at_s: float
    request: Ask


async def arrivals(site: Site) -> Figures:
    """Send several groups of callers for each kind and number, each group after the answers to the one before."""
    figures, sizes = Figures(), site.sizes
    for kind, callers in itertools.product(ARRIVALS, sizes.arriving):
        mean_s = BURST_S if kind == "burst" else sizes.arrival_s
        groups = schedule(site.prompts, sizes, callers, mean_s)
        answers = [answer for group in groups for answer in await _arrive(site.client, group)]
        figures |= {f"{kind}_{name}@{callers}": value for name, value in _summary(answers).items()}
    return figures


def schedule(prompts: Prompts, sizes: Sizes, callers: int, mean_s: float) -> list[list[Arrival]]:
    """Draw the arrivals of all groups before anything is sent, so that they are the same for every server."""
    groups = max(1, sizes.arriving_least // callers)
    lengths = _spread(*sizes.arriving_prompt, callers * groups)
    prompts.random.shuffle(lengths)
    return [
        [
            Arrival(
                at_s=at_s,
                request=ask(f"{prompts.of_length(length)} {WRITE_ON}", prompts.random.randint(*sizes.arriving_new)),
            )
            for at_s, length in zip(_times(prompts, callers, mean_s), lengths[i::groups], strict=True)
        ]
        for i in range(groups)
    ]


def _spread(least: int, most: int, n: int) -> list[int]:
    """Return `n` lengths from `least` to `most` at even ratios: many short, few long, always the same work."""
    step = math.log(most / least) / n
    return [round(least * math.exp(step * (i + 0.5))) for i in range(n)]


def _times(prompts: Prompts, n: int, mean_s: float) -> list[float]:
    """Return arrival times with exponential gaps, starting at 0."""
    gaps = (prompts.random.expovariate(1 / mean_s) for _ in range(n - 1))
    return list(itertools.accumulate(gaps, initial=0.0))


async def _arrive(client: Client, group: Sequence[Arrival]) -> list[Answer]:
    start = time.perf_counter()

    async def call(arrival: Arrival) -> Answer:
        await asyncio.sleep(arrival.at_s - (time.perf_counter() - start))
        return await client.ask(arrival.request)

    return await asyncio.gather(*(call(arrival) for arrival in group))


def _summary(answers: Sequence[Answer]) -> Figures:
    """Return means and 95th percentiles over the callers, and the longest gap in any stream."""
    first = sorted(1000 * a.first_token_s for a in answers)
    whole = sorted(1000 * a.latency_s for a in answers)
    gaps = (after - before for a in answers for before, after in itertools.pairwise(a.times))
    return {
        "first_ms": statistics.mean(first),
        "first_p95_ms": _p95(first),
        "whole_ms": statistics.mean(whole),
        "whole_p95_ms": _p95(whole),
        "gap_ms": 1000 * max(gaps, default=0.0),
    }


def _p95(ordered: Sequence[float]) -> float:
    return ordered[math.ceil(0.95 * len(ordered)) - 1]
