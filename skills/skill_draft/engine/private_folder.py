"""Folders that only this user may use, and that one process at a time writes. The server needs this too."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

_LOCK = "lock"
_LOCK_S, _LOCK_LOOK_S = 1.0, 0.02


class FolderError(Exception):
    """The folder cannot be used; the message says why."""


def make_private(folder: Path) -> None:
    """Create a folder if it is missing.

    Raises:
        FolderError: The folder is not this user's, others may use it, or it cannot be created.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        about = folder.stat()
    except OSError as error:
        raise FolderError(f"{folder}: {error.strerror}") from error
    if about.st_uid != os.geteuid():
        raise FolderError(f"{folder} belongs to another user (uid {about.st_uid})")
    if mode := stat.S_IMODE(about.st_mode) & 0o077:
        raise FolderError(f"{folder} is open to others (mode {mode:03o} of them): chmod 700 it")


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


def _lock(descriptor: int) -> bool:
    end = time.monotonic() + _LOCK_S
    while time.monotonic() < end:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        time.sleep(_LOCK_LOOK_S)
    return False
