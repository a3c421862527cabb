"""A private directory for sockets, gone with the process that made it, or soon after if that was killed."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from pathlib import Path

_PREFIX = "sarai-"
_LOCK = "lock"
_MAX_SOCKET_PATH_BYTES = 100  # of the 104 to 108 that systems allow
_STALE_AFTER_S = 60.0


class RunDir:
    """A directory of mode 0700. A lock file in it is held for as long as this process lives.

    The lock is how others tell a directory in use from one that was left behind: process ids would not do, since
    containers may share a directory for temporary files but not their ids.
    """

    def __init__(self) -> None:
        base = Path(tempfile.gettempdir())
        if len(os.fsencode(base)) + len(_PREFIX) + 8 + 24 > _MAX_SOCKET_PATH_BYTES:
            base = Path("/tmp")  # noqa: S108  # mkdtemp makes it private
        _sweep(base)
        self.path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=base))
        self._lock = os.open(self.path / _LOCK, os.O_CREAT | os.O_RDWR, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def remove(self) -> None:
        """Removes the directory and what is in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


def _sweep(base: Path) -> None:
    """Removes directories of processes that are gone, as far as they are this user's."""
    for path in base.glob(f"{_PREFIX}*"):
        try:
            status = path.lstat()
            # The age keeps a directory that is just being made, and has no lock yet, out of it.
            if status.st_uid != os.getuid() or time.time() - status.st_mtime < _STALE_AFTER_S or path.is_symlink():
                continue
            lock = os.open(path / _LOCK, os.O_RDWR | os.O_NOFOLLOW)
        except OSError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path, ignore_errors=True)
        except OSError:
            pass  # in use
        finally:
            os.close(lock)
