"""Measure what a kept answer costs while the engine is busy, and what looking for one adds to a call that has none.

`python -m bench.kept_answers`. Hits: equal calls over gRPC while four streams decode, which another process reads, in
turn with calls of Health, which show what gRPC alone takes then. Misses: calls of one token with prompts never seen, in
turn with the same that pass the kept answers by (CACHE_MODE_BYPASS), at one server, as two of them would differ by more
than that. By default with the embedded model for the hits, and with the tests' tiny one for the misses, whose steps
take a millisecond.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import multiprocessing
import random
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import grpc

from bench.in_turn import in_turn
from skills import skills_pb2, skills_pb2_grpc
from skills.skills_pb2 import GenReq, HealthReq
from skills.wire import Feature
from tests.servers import TINY, DraftServer, draft_server

STREAMS = 4
TOKENS = 64
HIT_P50_MS, HIT_P99_MS, MISS_MS = 1.0, 5.0, 0.1
WARM_UP = 50
KEEPS = ("--cache-mb", "64", "--cache-recheck", "0")


def _wait_until_it_keeps(server: DraftServer) -> None:
    while Feature.CACHE not in server.health().features:
        time.sleep(0.1)


def _decode(target: str) -> None:
    """Let streams decode all the time, each answer another one; the body of a process of its own."""
    seeds = itertools.count(1)

    def decode() -> None:
        with grpc.insecure_channel(target, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            stub = skills_pb2_grpc.SkillsServiceStub(channel)
            while True:
                request = GenReq(prompt="Write a long story.", temperature=1, seed=next(seeds), max_tokens=256)
                for _ in stub.GenerateStream(request):
                    pass

    threads = [threading.Thread(target=decode) for _ in range(STREAMS)]
    for thread in threads:
        thread.start()


@contextlib.contextmanager
def _streams(server: DraftServer) -> Iterator[None]:
    """Let streams decode; the process that reads them takes none of the time of the calls that are measured."""
    process = multiprocessing.get_context("spawn").Process(target=_decode, args=(server.target,), daemon=True)
    process.start()
    try:
        while server.health().active_requests < STREAMS:
            time.sleep(0.05)
        yield
    finally:
        process.kill()
        process.join()


def _shown(name: str, times: list[float]) -> str:
    return f"{name}: p50 {statistics.median(times):.2f} ms, p99 {times[int(len(times) * 0.99)]:.2f} ms"


def _hits(folder: Path, model: str, rounds: int) -> bool:
    """Print what hits cost; return whether that is more than it may be."""
    request = GenReq(prompt="Count to forty.", temperature=0, max_tokens=TOKENS)
    with draft_server(folder, *KEEPS, model=model, environment={"SKILL_DRAFT_PIECE_MS": "50"}) as server:
        _wait_until_it_keeps(server)
        first = server.stub.Generate(request)
        with _streams(server):
            hits, health = in_turn(
                [lambda: server.stub.Generate(request), lambda: server.stub.Health(HealthReq())],
                rounds,
                warm_up=WARM_UP,
            )
        assert server.stub.Generate(request).cache.outcome == skills_pb2.CACHE_OUTCOME_HIT
        name = f"hit of {first.tokens_generated} tokens, {STREAMS} streams decode ({server.health().model})"
    print(_shown(name, hits), _shown("Health", health), sep="; ")
    return statistics.median(hits) > HIT_P50_MS or hits[int(len(hits) * 0.99)] > HIT_P99_MS


def _misses(folder: Path, rounds: int) -> bool:
    """Print what a miss costs in addition; return whether that is more than it may be."""
    draw = random.Random(1)  # noqa: S311  # counted up, each other one would share more with the one before

    def ask(server: DraftServer, mode: skills_pb2.CacheMode.ValueType) -> object:
        prompt = f"{draw.randrange(10**8):08} is a number. {'It is followed by another. ' * 8}"
        cache = skills_pb2.CacheControl(mode=mode)
        return server.stub.Generate(GenReq(prompt=prompt, temperature=0, max_tokens=1, cache=cache))

    with draft_server(folder, *KEEPS, model=TINY) as server:
        _wait_until_it_keeps(server)
        modes = (skills_pb2.CACHE_MODE_UNSPECIFIED, skills_pb2.CACHE_MODE_BYPASS)
        looked_up, passed_by = in_turn([partial(ask, server, mode) for mode in modes], rounds, warm_up=WARM_UP)
        assert server.health().cache.misses == rounds + WARM_UP
    more = statistics.median(looked_up) - statistics.median(passed_by)
    print(_shown("miss", looked_up), _shown("not looked up", passed_by), f"difference {more:.3f} ms", sep="; ")
    return more > MISS_MS


def main() -> int:
    """Print a line for hits and one for misses; return 1 if one is over its limit."""
    parser = argparse.ArgumentParser(prog="python -m bench.kept_answers", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=1000, help="calls of each kind")
    parser.add_argument("--model", default="", help="a GGUF file, or a name from the catalogue, for the hits")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        over = _hits(Path(folder), arguments.model, arguments.rounds)
        over |= _misses(Path(folder), arguments.rounds)
    return 1 if over else 0


if __name__ == "__main__":
    sys.exit(main())
