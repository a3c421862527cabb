"""The folder of prefixes: which files are in it, who may write, and how it is emptied. The server needs this too."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

SUFFIX, UNFINISHED = ".kv", ".part"
_HEX_DIGITS = 64  # of a file's name: it is a SHA-256
_LOCK = "lock"
_LOCK_S, _LOCK_LOOK_S = 1.0, 0.02


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Hold a folder for writing; false if another process holds it, as it may be stopped.

    Raises:
        OSError: The folder does not let this process write.
    """
    descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        yield _lock(descriptor)
    finally:
        os.close(descriptor)


def clear(folder: Path) -> tuple[int, int]:
    """Remove all prefixes in a folder; return how many files they were, and their bytes.

    What an engine has mapped stays with it as long as it reads that.

    Raises:
        OSError: The folder does not let this process write.
    """
    files = num_bytes = 0
    with locked(folder):  # emptied in any case: an engine that holds the folder for long is stopped
        for path in folder.iterdir():
            if path.suffix in (SUFFIX, UNFINISHED) and len(path.stem) == _HEX_DIGITS:
                with contextlib.suppress(FileNotFoundError):
                    size = path.stat().st_size
                    path.unlink()
                    files, num_bytes = files + 1, num_bytes + size
    return files, num_bytes


def _lock(descriptor: int) -> bool:
    end = time.monotonic() + _LOCK_S
    while time.monotonic() < end:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        time.sleep(_LOCK_LOOK_S)
    return False
