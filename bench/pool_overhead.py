"""What the pool adds to a call: its `Generate` beside that of a bare stub, milliseconds at the median.

`python -m bench.pool_overhead`. Both have the same channel options and a connection of their own to a skill of the
tests in another process, whose answers cost next to nothing. They are called in turn, so that a busy machine is busy
for both. The pool takes an answer in pieces, so that another replica can go on with it; so the bare stub is also called
in that way. What the pieces themselves cost shows in the row with 64 of them, which here come all at once; those of a
model come as it writes, and that takes longer.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence

from core.config import PoolConfig
from core.model_pool import ModelPool
from core.rpc import open_channel
from skills import skills_pb2, skills_pb2_grpc

NUM_PIECES = (1, 64)
LIMIT_MS = 0.3
WARM_UP = 200

Call = Callable[[], object]


@contextlib.contextmanager
def _skill(pieces: int) -> Iterator[str]:
    """The target of a skill whose every answer has so many pieces."""
    answer = " ".join(["word"] * pieces)
    command = [sys.executable, "-m", "tests.stub_skill", "--listen", "127.0.0.1:0", "--reply", answer]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            line = process.stderr.readline()  # serving at HOST:PORT
            yield line.split()[-1]
        finally:
            process.terminate()


def _in_turn(calls: Sequence[Call], rounds: int) -> list[float]:
    """The median of each, milliseconds."""
    times: list[list[float]] = [[] for _ in calls]
    for number in range(WARM_UP + rounds):
        for call, own in zip(calls, times, strict=True):
            begin = time.perf_counter()
            call()
            if number >= WARM_UP:
                own.append((time.perf_counter() - begin) * 1000)
    return [statistics.median(own) for own in times]


def _measure(pieces: int, rounds: int) -> tuple[float, float, float]:
    """Medians of the bare stub, of the bare stub in pieces, and of the pool, milliseconds."""
    request = skills_pb2.GenReq(prompt="Hello", max_tokens=pieces, temperature=0)
    with (
        _skill(pieces) as target,
        open_channel(target) as channel,
        ModelPool(PoolConfig(targets={"SARAI_DRAFT_TARGET": target})) as pool,
    ):
        bare = skills_pb2_grpc.SkillsServiceStub(channel)
        client = pool.get_skill_client("draft")
        once, in_pieces, pooled = _in_turn(
            (
                lambda: bare.Generate(request, timeout=10.0),
                lambda: list(bare.GenerateStream(request, timeout=10.0)),
                lambda: client.Generate(request, timeout=10.0),
            ),
            rounds,
        )
    return once, in_pieces, pooled


def main() -> int:
    """Prints a line for each length of an answer; exit code 1 if the pool adds more than the limit."""
    parser = argparse.ArgumentParser(prog="python -m bench.pool_overhead", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=2000, help="calls of each kind")
    rounds = parser.parse_args().rounds
    over = False
    for pieces in NUM_PIECES:
        once, in_pieces, pooled = _measure(pieces, rounds)
        # Beyond one piece, the rest is the price of pieces, not of the pool.
        over |= pooled - (once if pieces == 1 else in_pieces) >= LIMIT_MS
        print(
            f"pieces: {pieces:2}; bare stub {once:.3f} ms, in pieces {in_pieces:.3f} ms, pool {pooled:.3f} ms; "
            f"the pool adds {pooled - once:.3f} ms to a call, {pooled - in_pieces:.3f} ms to one in pieces "
            f"(limit {LIMIT_MS:g} ms)"
        )
    return 1 if over else 0


if __name__ == "__main__":
    sys.exit(main())
