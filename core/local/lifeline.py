"""The lifeline of a server: a FIFO that it reads from, and that each of its users holds a writing end of.

So the kernel counts the users. The server sees the end of its standard input when the last of them has gone, however
that came about; and a user sees at once when nobody reads any more, which is when the server has gone.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import threading
from pathlib import Path

# Descriptors that hold something as long as they are open: a lock, a lifeline. Forked children must not keep them.
_held: set[int] = set()
# Taken by whoever forks, so that no child is made between the opening of a descriptor and its being noted here.
# Programs that are started, not forked, do not get them: Python's descriptors close on exec.
_forking = threading.RLock()


def open_held(path: Path, flags: int) -> int:
    """Opens a file that is ours, never a link, and that only its owner may use if it is made by this.

    Raises:
        OSError: as `os.open`.
    """
    with _forking:
        descriptor = os.open(path, flags | os.O_NOFOLLOW, 0o600)
        _held.add(descriptor)
        return descriptor


def close_held(descriptor: int) -> None:
    """Closes what `open_held` gave."""
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


def make_lifeline(path: Path) -> int:
    """Makes a FIFO in the place of what may be there, and gives its reading end, for the server. Close it thereafter.

    A new one for each server: who holds the one before sees that its server is gone, for good.
    """
    path.unlink(missing_ok=True)
    os.mkfifo(path, 0o600)
    end = open_held(path, os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(end, True)
    return end


def is_read(path: Path) -> bool:
    """Whether a server reads from there."""
    try:
        close_held(open_held(path, os.O_WRONLY | os.O_NONBLOCK))
    except OSError:  # nobody reads it (ENXIO), or there is none
        return False
    return True


class Lifeline:
    """A writing end, held until it is closed. Thread-safe.

    A shared lock on it says that somebody uses the server: that is how who leaves knows whether others stay.

    Raises:
        OSError: nobody reads from there.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._guard = threading.Lock()
        self._end: int | None = open_held(path, os.O_WRONLY | os.O_NONBLOCK)
        fcntl.flock(self._end, fcntl.LOCK_SH)

    def is_read(self) -> bool:
        """Whether the server is there. Takes microseconds."""
        with self._guard:
            if self._end is None:
                return False
            poll = select.poll()
            poll.register(self._end, 0)
            return not poll.poll(0)  # POLLERR: nobody reads

    def is_current(self) -> bool:
        """Whether it is still the one at its path: no other server was started since."""
        with self._guard:
            try:
                return self._end is not None and os.path.samestat(os.fstat(self._end), self._path.lstat())
            except FileNotFoundError:
                return False

    def is_last(self) -> bool:
        """Whether nobody else holds it. Certain while the directory is locked."""
        with self._guard:
            if self._end is None:
                return False
            try:
                fcntl.flock(self._end, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                last = False
            else:
                last = True
            fcntl.flock(self._end, fcntl.LOCK_SH)  # the lock that was there may be lost, whether or not the other came
            return last

    def close(self) -> None:
        """Lets go of the server. Again does nothing."""
        with self._guard:
            if self._end is not None:
                close_held(self._end)
                self._end = None
