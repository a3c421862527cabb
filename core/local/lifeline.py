"""The lifeline of a server: a FIFO that it reads from, of which each of its users holds a writing end.

So the kernel counts the users. The server sees the end of its standard input when the last user has gone, for whatever
reason, and a user sees at once that nothing reads any more when the server has gone.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import threading
from pathlib import Path

# Descriptors that hold a lock or a lifeline as long as they are open, so forked children must not keep them.
_held: set[int] = set()
# Held during a fork, so that no child is made between opening a descriptor and noting it here. Programs that are
# started, not forked, do not inherit them: Python's descriptors close on exec.
_forking = threading.RLock()


def open_held(path: Path, flags: int) -> int:
    """Open a file, never a link, with a descriptor that forked children do not keep. A new file is private to the user.

    Raises:
        OSError: As `os.open`.
    """
    with _forking:
        descriptor = os.open(path, flags | os.O_NOFOLLOW, 0o600)
        _held.add(descriptor)
        return descriptor


def close_held(descriptor: int) -> None:
    """Close a descriptor of `open_held`."""
    with _forking:
        if descriptor in _held:
            _held.discard(descriptor)
            os.close(descriptor)


def _drop() -> None:
    for descriptor in _held:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    _held.clear()
    _forking.release()


os.register_at_fork(before=_forking.acquire, after_in_parent=_forking.release, after_in_child=_drop)


def make_lifeline(path: Path, *, kept: bool = False) -> int:
    """Make a FIFO, replacing any other, and return its reading end for the server. Close it after the server's start.

    Each server has its own, so that the users of the one before see that their server is gone for good.

    Args:
        path: Where to make it.
        kept: Whether the server is to stay without users: it holds a writing end itself, and is a user of its own.
    """
    path.unlink(missing_ok=True)
    os.mkfifo(path, 0o600)
    end = open_held(path, (os.O_RDWR if kept else os.O_RDONLY) | os.O_NONBLOCK)
    if kept:
        fcntl.flock(end, fcntl.LOCK_SH)
    os.set_blocking(end, True)
    return end


def is_read(path: Path) -> bool:
    """Return whether a server reads from the FIFO."""
    try:
        close_held(open_held(path, os.O_WRONLY | os.O_NONBLOCK))
    except OSError:  # no server reads it (ENXIO), or there is none
        return False
    return True


class Lifeline:
    """A writing end, held until it is closed. Thread-safe.

    A shared lock on it marks a user of the server, so that a user that leaves knows whether others remain.

    Raises:
        OSError: No server reads from the FIFO.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._guard = threading.Lock()
        self._end: int | None = open_held(path, os.O_WRONLY | os.O_NONBLOCK)
        fcntl.flock(self._end, fcntl.LOCK_SH)

    def is_read(self) -> bool:
        """Return whether the server runs. Takes microseconds."""
        with self._guard:
            if self._end is None:
                return False
            poll = select.poll()
            poll.register(self._end, 0)
            return not poll.poll(0)  # POLLERR: no server reads

    def is_current(self) -> bool:
        """Return whether it is still the FIFO at its path, so that no other server was started since."""
        with self._guard:
            try:
                return self._end is not None and os.path.samestat(os.fstat(self._end), self._path.lstat())
            except FileNotFoundError:
                return False

    def is_last(self) -> bool:
        """Return whether it has no other user. Certain only while the directory is locked."""
        with self._guard:
            if self._end is None:
                return False
            try:
                fcntl.flock(self._end, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                last = False
            else:
                last = True
            fcntl.flock(self._end, fcntl.LOCK_SH)  # converting may have lost the shared lock either way
            return last

    def close(self) -> None:
        """Release the server. Idempotent."""
        with self._guard:
            if self._end is not None:
                close_held(self._end)
                self._end = None
