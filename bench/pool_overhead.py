"""Measure what the pool adds to a call: its `Generate` compared with a bare stub's, in milliseconds at the median.

`python -m bench.pool_overhead`. Both have the same channel options and separate connections to a stub skill in another
process, whose answers cost next to nothing. They are called in turn, so that other load on the machine affects both.
The pool streams every answer, so that another replica can continue it; so the bare stub is also called that way. The
row with 64 pieces shows what the pieces cost: here they arrive all at once, a model's arrive as it writes, which takes
longer anyway.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator

from bench.in_turn import in_turn
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
    """Start a skill whose every answer has `pieces` pieces; yield its target."""
    answer = " ".join(["word"] * pieces)
    command = [sys.executable, "-m", "tests.stub_skill", "--listen", "127.0.0.1:0", "--reply", answer]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            line = process.stderr.readline()  # serving at HOST:PORT
            yield line.split()[-1]
        finally:
            process.terminate()


def _measure(pieces: int, rounds: int) -> tuple[float, float, float]:
    """Return the medians of the bare stub, of the bare stub streaming, and of the pool, in milliseconds."""
    request = skills_pb2.GenReq(prompt="Hello", max_tokens=pieces, temperature=0)
    with (
        _skill(pieces) as target,
        open_channel(target) as channel,
        ModelPool(PoolConfig(targets={"SARAI_DRAFT_TARGET": target})) as pool,
    ):
        bare = skills_pb2_grpc.SkillsServiceStub(channel)
        client = pool.get_skill_client("draft")
        times = in_turn(
            (
                lambda: bare.Generate(request, timeout=10.0),
                lambda: list(bare.GenerateStream(request, timeout=10.0)),
                lambda: client.Generate(request, timeout=10.0),
            ),
            rounds,
            warm_up=WARM_UP,
        )
    once, in_pieces, pooled = map(statistics.median, times)
    return once, in_pieces, pooled


def main() -> int:
    """Print a line for each number of pieces; return 1 if the pool adds more than the limit."""
    parser = argparse.ArgumentParser(prog="python -m bench.pool_overhead", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=2000, help="calls of each kind")
    rounds = parser.parse_args().rounds
    over = False
    for pieces in NUM_PIECES:
        once, in_pieces, pooled = _measure(pieces, rounds)
        # With more than one piece, compare with the streaming stub: pieces are not the pool's cost.
        over |= pooled - (once if pieces == 1 else in_pieces) >= LIMIT_MS
        print(
            f"pieces: {pieces:2}; bare stub {once:.3f} ms, in pieces {in_pieces:.3f} ms, pool {pooled:.3f} ms; "
            f"the pool adds {pooled - once:.3f} ms to a call, {pooled - in_pieces:.3f} ms to one in pieces "
            f"(limit {LIMIT_MS:g} ms)"
        )
    return 1 if over else 0


if __name__ == "__main__":
    sys.exit(main())
