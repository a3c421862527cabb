"""How long a call takes that wakes a resting engine (`SKILL_DRAFT_ENGINE_IDLE_S`), and what the server holds meanwhile.

python -m bench.scaling.waking [--model FILE] [--times 5] [--packed-dir DIR]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

from skills import skills_pb2
from tests.servers import DraftServer, draft_server

REQUEST = skills_pb2.GenReq(prompt="Hello", max_tokens=1, temperature=0, raw=True)
RESTS = "the engine ends until the next request"


def ask_s(server: DraftServer) -> float:
    """Return how long a call takes."""
    begin = time.monotonic()
    server.stub.Generate(REQUEST, timeout=60)
    return time.monotonic() - begin


def main() -> int:
    """Print the figures."""
    parser = argparse.ArgumentParser(prog="python -m bench.scaling.waking", description=__doc__)
    parser.add_argument("--model", default="", help="a GGUF file; by default the embedded model")
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--packed-dir", default="", help="folder for a packed copy of the model (docs/engine.md)")
    options = parser.parse_args()
    flags = ("--engine-idle-s", "0.3", "--mmproj", "off", "--packed-dir", options.packed_dir)
    with (
        tempfile.TemporaryDirectory() as folder,
        draft_server(Path(folder), *flags, model=options.model) as server,
    ):
        ask_s(server)
        awake_s, woken, resting_mb = ask_s(server), [], 0.0
        for times in range(1, options.times + 1):
            while server.log.read_text().count(RESTS) < times:
                time.sleep(0.05)
            time.sleep(2.0)  # until the process that waits for its model has done its imports
            resting_mb = server.health().ram_mb
            woken.append(ask_s(server))
    print(f"awake {awake_s:.3f} s, woken {statistics.median(woken):.2f} s ({min(woken):.2f} to {max(woken):.2f}), "
          f"resting {resting_mb:.0f} MB")  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
