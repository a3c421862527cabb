"""How long the vision tower of the 4B's shape takes for an image, with our kernels and with llama.cpp's own.

`python -m bench.tower [--sides 512 768] [--threads 1]`, on a quiet machine. Each measurement is a process of its own
that encodes one image: `all` is what the vision process runs with, `on` has our attention and llama.cpp's own products,
and `off` has nothing of ours.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys

from bench.shape_model import N_EMBD, shape_model
from bench.shape_tower import shape_tower

KERNELS = ("off", "on", "all")
_TILE = 32
_PROGRAM = """
import sys, time
from pathlib import Path
from skills.skill_draft.vision.pixels import Pixels
from skills.skill_draft.vision.tower import Tower
model, mmproj, width, tokens, threads = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
tower = Tower(Path(model), Path(mmproj), row_width=width, threads=threads)
pixels = Pixels(across=tokens, down=tokens, data=bytes(range(256)) * (tokens * tokens * 32 * 32 * 3 // 256))
room = bytearray(tokens * tokens * width * 4)
begin = time.monotonic()
tower.encode(pixels, memoryview(room))
print(time.monotonic() - begin)
"""


def seconds(side: int, *, threads: int, kernels: str) -> float:
    """Return the time of encoding an image of `side` x `side` pixels."""
    arguments = [shape_model(), shape_tower(), 4 * N_EMBD, side // _TILE, threads]
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, *map(str, arguments)],
        env={**os.environ, "SARAI_KERNELS": kernels}, check=True, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    return float(done.stdout.split()[-1])


def main() -> int:
    """Print a table."""
    parser = argparse.ArgumentParser(prog="python -m bench.tower", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--sides", type=int, nargs="+", default=[512, 768], help="pixels, multiples of 32")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    sys.stdout.write(f"| image | {' | '.join(KERNELS)} | off by all |\n| --- | {'--- | ' * len(KERNELS)}--- |\n")
    for side in arguments.sides:
        took = [seconds(side, threads=arguments.threads, kernels=kernels) for kernels in KERNELS]
        cells = " | ".join(f"{each:.2f} s" for each in took)
        sys.stdout.write(f"| {side} x {side} | {cells} | {took[0] / took[-1]:.2f} |\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
