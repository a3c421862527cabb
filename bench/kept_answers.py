"""Measure what a kept answer costs while the engine is busy, and what looking for one adds to a call that has none.

`python -m bench.kept_answers`. Hits: equal calls over gRPC while four streams decode, in turn with calls of Health,
which show what gRPC alone takes then. Misses: calls of one token with prompts never seen, in turn at a server that
keeps answers and at one that does not, so that other load on the machine affects both. By default with the embedded
model for the hits, and with the tests' tiny one for the misses, whose steps take a millisecond.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc

from bench.in_turn import in_turn
from skills import skills_pb2
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


@contextlib.contextmanager
def _streams(server: DraftServer) -> Iterator[None]:
    """Let streams decode all the time, each answer another one."""
    over, seeds = threading.Event(), itertools.count(1)

    def decode() -> None:
        channel, stub = server.new_stub()
        with channel:
            while not over.is_set():
                request = GenReq(prompt="Write a long story.", temperature=1, seed=next(seeds), max_tokens=256)
                stream = stub.GenerateStream(request)
                with contextlib.suppress(grpc.RpcError):
                    for _ in stream:
                        if over.is_set():
                            stream.cancel()

    threads = [threading.Thread(target=decode, daemon=True) for _ in range(STREAMS)]
    for thread in threads:
        thread.start()
    try:
        while server.health().active_requests < STREAMS:
            time.sleep(0.05)
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


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
    numbers = itertools.count()

    def ask(server: DraftServer) -> object:
        prompt = f"{next(numbers)} is a number. {'It is followed by another. ' * 8}"
        return server.stub.Generate(GenReq(prompt=prompt, temperature=0, max_tokens=1))

    with draft_server(folder, *KEEPS, model=TINY) as keeps, draft_server(folder, model=TINY) as plain:
        _wait_until_it_keeps(keeps)
        with_cache, without = in_turn([lambda: ask(keeps), lambda: ask(plain)], rounds, warm_up=WARM_UP)
        assert keeps.health().cache.misses >= rounds
    more = statistics.median(with_cache) - statistics.median(without)
    print(_shown("miss", with_cache), _shown("without kept answers", without), f"difference {more:.3f} ms", sep="; ")
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
