"""What this process holds: file descriptors and threads."""

from __future__ import annotations

import contextlib
import gc
import threading
import time
from dataclasses import dataclass
from pathlib import Path

PATIENCE_S = 20.0
# gRPC's own pool of threads grows with the load, and shrinks when it likes.
THREADS_OF_GRPC = 16
# One connection may stay for longer than this waits (seen in one of ten runs, for a reason not known yet). A leak
# would hold one for each fault, or for each call.
DESCRIPTORS_OF_GRPC = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """At one moment."""

    descriptors: int
    python_threads: int
    threads: int

    @classmethod
    def now(cls) -> Footprint:
        own = Path("/proc/self")
        return cls(
            descriptors=len(list((own / "fd").iterdir())),
            python_threads=threading.active_count(),
            threads=len(list((own / "task").iterdir())),
        )

    def within(self, before: Footprint) -> bool:
        """Whether nothing was left behind since then."""
        return (
            self.descriptors <= before.descriptors + DESCRIPTORS_OF_GRPC
            and self.python_threads <= before.python_threads
            and self.threads <= before.threads + THREADS_OF_GRPC
        )


def _open() -> list[str]:
    """What the descriptors are."""
    found = []
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            found.append(str(entry.readlink()))
    return sorted(found)


def wait_back_to(before: Footprint) -> Footprint:
    """Until the process holds no more than before; connections and threads take a moment to end."""
    until_s = time.monotonic() + PATIENCE_S
    while not (now := Footprint.now()).within(before):
        names = sorted(thread.name for thread in threading.enumerate())
        assert time.monotonic() < until_s, f"{now} is more than {before}; threads: {names}; open: {_open()}"
        gc.collect()  # what only the collector is still to find is not left behind
        time.sleep(0.05)
    return now
