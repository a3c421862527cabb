"""Measure the resident memory (MB) of a process that imports `core` and runs the loop, with the model in a container.

`python -m bench.host_memory`, with the container up (`sarai up`). It measures itself, so it imports nothing else.
"""

from __future__ import annotations

import sys
from pathlib import Path

LIMIT_MB = 60.0


def resident_mb(field: str = "VmRSS") -> float:
    """Return this process's current (`VmRSS`) or peak (`VmHWM`) resident memory, including shared libraries."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split(f"{field}:")[1].split()[0]) / 1024


def main() -> int:
    """Run the loop once; return 1 if the process exceeded the limit, 3 if no container answered."""
    from core.loop.config import LoopConfig
    from core.model_pool import ModelPool
    from core.omni_loop import OmniLoop

    with ModelPool() as pool:
        origin = pool.get_skill_client("draft").origin
        if origin == "embedded":
            print("no container is up: `sarai up`", file=sys.stderr)
            return 3
        OmniLoop(LoopConfig(max_tokens=32), pool=pool).run("Explain how a rainbow forms")
        now, most = resident_mb(), resident_mb("VmHWM")
    print(f"{now:.1f} MB resident after a loop, {most:.1f} MB at most (limit {LIMIT_MB:g}; skill: {origin})")
    return 0 if most < LIMIT_MB else 1


if __name__ == "__main__":
    sys.exit(main())
