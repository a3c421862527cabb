"""Servers whose cgroup is a folder of the test, on a machine with four CPUs.

`OWN_CGROUP=FOLDER python -m tests.own_cgroup serve …` is a draft server, `python -m tests.own_cgroup FD` its engine,
`… image …` an image server.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from skills.runtime import resources

CPUS = 4


def write_limits(folder: Path, *, cpus: float, memory_bytes: int) -> None:
    """Write the files that `docker update` makes the kernel change, for cgroup v1 and v2."""
    quota = round(cpus * 100_000)
    for name, text in {
        "cpu.max": f"{quota} 100000", "cpu/cpu.cfs_quota_us": quota, "cpu/cpu.cfs_period_us": 100_000,
        "memory.max": memory_bytes, "memory/memory.limit_in_bytes": memory_bytes,
        "memory.current": 0, "memory/memory.usage_in_bytes": 0,
    }.items():  # fmt: skip
        partial = folder / "partial"
        partial.write_text(f"{text}\n")
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        partial.replace(folder / name)  # atomic, as with the kernel's files


if __name__ == "__main__":
    resources._CGROUP = Path(os.environ["OWN_CGROUP"])
    os.sched_getaffinity = lambda _: set(range(CPUS))
    if sys.argv[1] == "serve":
        from skills.skill_draft.server import main

        sys.exit(main(sys.argv[2:], engine_module="tests.own_cgroup"))
    if sys.argv[1] == "image":
        from skills.runtime.program import run_server
        from skills.skill_image.server import PORT, ImageSkill
        from skills.skill_image.settings import ImageSettings

        sys.exit(run_server(ImageSkill, ImageSettings, name="image", port=PORT, arguments=sys.argv[2:]))
    from skills.skill_draft.engine.__main__ import main as engine

    sys.exit(engine())
