"""The memory of the production model's container under mixed requests: `python -m bench memory`, after `make image`.

The model is `shape_model.py`'s, the limits are those of docker-compose.override.yml. Callers arrive milliseconds to
seconds apart; prompts are short and long, some share a beginning, some have a grammar, some callers cancel. With
`--images`, one request in ten is about an image. Counted is the anonymous memory of the server's processes (RssAnon and
VmSwap, `Health.ram_mb`): the kernel cannot reclaim it, and kills processes for it. With `--packed`, the weights are not
among it: they are mapped.
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
from bench.images import picture
from bench.shape_model import shape_model
from bench.shape_tower import shape_tower
from skills import skills_pb2, skills_pb2_grpc, types_pb2

MIB = 1 << 20
AIM_SHARE = 2.9 / 3  # of the limit
_SAMPLE_S = 0.2
_SIDES = (128, 256, 512, 768)  # pixels of a side of an image
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
    images: int = 0
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


def _about_image(rng: random.Random) -> skills_pb2.GenReq:
    image = types_pb2.Part(image=types_pb2.Image(data=picture(rng, rng.choice(_SIDES))))
    question = types_pb2.Part(text=" ".join(rng.choices(_WORDS, k=6)))
    return skills_pb2.GenReq(messages=[types_pb2.Message(role="user", parts=[image, question])], max_tokens=16)


async def _caller(stub: Stub, rng: random.Random, left: list[bool], long_words: int, seen: Seen) -> None:
    while left:
        with_image = left.pop()
        seen.images += with_image
        await asyncio.sleep(rng.choice((0.0, 0.01, 0.2, 1.0)))
        # One caller in twenty does not wait for the end.
        timeout_s = 1.0 if rng.random() < 0.05 else _TIMEOUT_S
        try:
            request = _about_image(rng) if with_image else _request(rng, long_words=long_words)
            await stub.Generate(request, timeout=timeout_s)
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


async def _load(
    address: str, left: list[bool], *, callers: int, seed: int
) -> tuple[float, skills_pb2.HealthResp, Seen]:
    seen = Seen()
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


def container_memory(*, requests: int, callers: int, seed: int, limit_mib: int, images: bool, packed: bool) -> int:
    """Print a table; return 1 if anything was killed or failed, or memory exceeded the target."""
    model = shape_model()
    options = [f"--memory={limit_mib}m", f"--memory-swap={limit_mib}m", f"--volume={model.parent}:/models:ro",
               f"--env=SKILL_DRAFT_MODEL=/models/{model.name}"]  # fmt: skip
    options.append(f"--env=SKILL_DRAFT_MMPROJ={f'/models/{shape_tower().name}' if images else 'off'}")
    if packed:
        options += ["--volume=/prefixes", "--env=SKILL_DRAFT_PACKED_DIR=/prefixes/packed"]
    left = [images and i % 10 == 0 for i in range(requests)]
    with container(*options) as name:
        docker("start", name)
        address = target(name)
        with open_channel(address) as channel:
            wait_serving(channel)
        begin = time.monotonic()
        baseline, health, seen = asyncio.run(_load(address, left, callers=callers, seed=seed))
        seconds = time.monotonic() - begin
    peak, mean = max(seen.samples), statistics.fmean(seen.samples)
    sys.stdout.write(
        f"| callers | requests | with images | cells | baseline, MiB | mean | peak | limit | killed for memory "
        f"| failed |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n"
        f"| {callers} | {requests} in {seconds:,.0f} s | {seen.images} | {health.engine.kv_cells:,} | {baseline:,.0f} "
        f"| {mean:,.0f} | {peak:,.0f} | {limit_mib:,} | {health.engine.memory_kills} | {len(seen.failed)} |\n"
    )
    for text in sorted(set(seen.failed)):
        sys.stderr.write(f"{seen.failed.count(text)} x {text}\n")
    return int(bool(seen.failed) or health.engine.restarts > 0 or peak > AIM_SHARE * limit_mib)
