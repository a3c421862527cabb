"""The file descriptors and threads of this process."""

from __future__ import annotations

import contextlib
import gc
import threading
import time
from dataclasses import dataclass
from pathlib import Path

PATIENCE_S = 20.0
# gRPC's own thread pool grows with the load, and shrinks at times of its own choice.
THREADS_OF_GRPC = 16
# One connection may remain for longer than `PATIENCE_S` (in one of ten runs; the reason is not known yet). A leak
# would keep one for each fault, or for each call.
DESCRIPTORS_OF_GRPC = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """The numbers at one moment."""

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
        """Return whether nothing has leaked since `before`."""
        return (
            self.descriptors <= before.descriptors + DESCRIPTORS_OF_GRPC
            and self.python_threads <= before.python_threads
            and self.threads <= before.threads + THREADS_OF_GRPC
        )


def _open() -> list[str]:
    """Return what the open descriptors refer to."""
    found = []
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            found.append(str(entry.readlink()))
    return sorted(found)


def wait_back_to(before: Footprint) -> Footprint:
    """Wait until the process holds no more than before; connections and threads take a moment to end."""
    until_s = time.monotonic() + PATIENCE_S
    while not (now := Footprint.now()).within(before):
        names = sorted(thread.name for thread in threading.enumerate())
        assert time.monotonic() < until_s, f"{now} is more than {before}; threads: {names}; open: {_open()}"
        gc.collect()  # garbage that is not yet collected is no leak
        time.sleep(0.05)
    return now
