"""The memory of the production model's container under mixed requests: `python -m bench memory`, after `make image`.

The model is `shape_model.py`'s, the limits are those of docker-compose.override.yml. Callers arrive milliseconds to
seconds apart; prompts are short and long, some share a beginning, some have a grammar, some callers cancel. Counted is
the anonymous memory of the server's processes (RssAnon and VmSwap, `Health.ram_mb`): the kernel cannot reclaim it, and
kills processes for it.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import sys
import time
from dataclasses import dataclass, field
from typing import Any

import grpc

from bench.containers import container, docker, open_channel, target, wait_serving
from bench.shape_model import shape_model
from skills import skills_pb2, skills_pb2_grpc

MIB = 1 << 20
LIMIT_MIB = 3 << 10
AIM_MIB = 2.9 * 1024
_SAMPLE_S = 0.2
_TIMEOUT_S = 1800.0
_WORDS = (
    "river", "stone", "light", "morning", "window", "paper", "garden", "music", "winter", "bread", "silver", "road",
)  # fmt: skip
_SYSTEM = "You answer in one sentence. " + " ".join(_WORDS * 8)


Stub = Any  # the stub of an asynchronous channel, which has no type of its own


@dataclass(slots=True)
class Seen:
    """Outcomes of the requests, and samples of the memory (MiB)."""

    answered: int = 0
    left: int = 0
    failed: list[str] = field(default_factory=list)
    samples: list[float] = field(default_factory=list)


def _request(rng: random.Random, *, long_words: int) -> skills_pb2.GenReq:
    """Draw a request: mostly short, one in twenty as long as a caller's share of the cache."""
    words = long_words if rng.random() < 0.05 else rng.randint(5, 60)
    request = skills_pb2.GenReq(
        prompt=" ".join(rng.choices(_WORDS, k=words)),
        max_tokens=rng.randint(2, 24),
        temperature=rng.choice((0.0, 0.8)),
        num_candidates=rng.choice((1, 1, 1, 1, 2)),
    )
    if rng.random() < 0.3:
        request.system = _SYSTEM
    if rng.random() < 0.1:
        request.grammar = "root ::= [a-z ]+"
    return request


async def _caller(stub: Stub, rng: random.Random, left: list[int], long_words: int, seen: Seen) -> None:
    while left:
        left.pop()
        await asyncio.sleep(rng.choice((0.0, 0.01, 0.2, 1.0)))
        # One caller in twenty does not wait for the end.
        timeout_s = 1.0 if rng.random() < 0.05 else _TIMEOUT_S
        try:
            await stub.Generate(_request(rng, long_words=long_words), timeout=timeout_s)
            seen.answered += 1
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED and timeout_s < _TIMEOUT_S:
                seen.left += 1
            else:
                seen.failed.append(f"{error.code().name}: {error.details()}")


async def _sample(stub: Stub, seen: Seen) -> None:
    while True:
        health = await stub.Health(skills_pb2.HealthReq())
        seen.samples.append(health.ram_mb * 1e6 / MIB)
        await asyncio.sleep(_SAMPLE_S)


async def _load(address: str, *, requests: int, callers: int, seed: int) -> tuple[float, skills_pb2.HealthResp, Seen]:
    seen, left = Seen(), list(range(requests))
    async with grpc.aio.insecure_channel(address) as channel:
        stub: Stub = skills_pb2_grpc.SkillsServiceStub(channel)
        start = await stub.Health(skills_pb2.HealthReq())
        baseline = start.ram_mb * 1e6 / MIB
        sampling = asyncio.create_task(_sample(stub, seen))
        # The cache is sized for full-length prompts of all callers at once: a share each, minus the answer.
        long_words = start.engine.kv_cells // max(4, callers) - 64
        await asyncio.gather(
            *(_caller(stub, random.Random(seed + i), left, long_words, seen) for i in range(callers))  # noqa: S311
        )
        sampling.cancel()
        return baseline, await stub.Health(skills_pb2.HealthReq()), seen


def container_memory(*, requests: int, callers: int, seed: int) -> int:
    """Print a table; return 1 if anything was killed or failed, or memory exceeded the target."""
    model = shape_model()
    options = (f"--memory-swap={LIMIT_MIB}m", "--volume", f"{model.parent}:/models:ro",
               "--env", f"SKILL_DRAFT_MODEL=/models/{model.name}")  # fmt: skip
    with container(*options) as name:
        docker("start", name)
        address = target(name)
        with open_channel(address) as channel:
            wait_serving(channel)
        begin = time.monotonic()
        baseline, health, seen = asyncio.run(_load(address, requests=requests, callers=callers, seed=seed))
        seconds = time.monotonic() - begin
    peak, mean = max(seen.samples), statistics.fmean(seen.samples)
    sys.stdout.write(
        f"| callers | requests | cells | baseline, MiB | mean, MiB | peak, MiB | of | killed for memory | failed |\n"
        f"| --- | --- | --- | --- | --- | --- | --- | --- | --- |\n"
        f"| {callers} | {requests} in {seconds:,.0f} s | {health.engine.kv_cells:,} | {baseline:,.0f} | {mean:,.0f} "
        f"| {peak:,.0f} | {LIMIT_MIB:,} | {health.engine.memory_kills} | {len(seen.failed)} |\n"
    )
    for text in sorted(set(seen.failed)):
        sys.stderr.write(f"{seen.failed.count(text)} x {text}\n")
    return int(bool(seen.failed) or health.engine.restarts > 0 or peak > AIM_MIB)
