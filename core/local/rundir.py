"""A private directory for the socket of a server, known by its name to all processes that use the server."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from core.local.descriptors import close_held, open_held
from core.local.lifeline import is_read

NAME_BYTES = 15
"""What a name is made of, in base 64: 20 characters. More would leave less for the folder of temporary files."""

_PREFIX = "sarai-"
_LOCK = "lock"
_LIFELINE = "lifeline"
_SOCKET = "skill.sock"  # short whatever the skill is called
_MAX_SOCKET_PATH_BYTES = 100  # of the 104 to 108 that systems allow
_STALE_AFTER_S = 60.0

_log = logging.getLogger(__name__)


class RunDir:
    """A directory of mode 0700, made when it is first locked. Whoever uses it last removes it.

    What is in it tells others whether it is in use. Process ids would not do: containers may share a directory for
    temporary files, but not their ids.

    Args:
        name: the same name is the same directory; None, or one that is not ours, is a directory of its own.
    """

    def __init__(self, name: str | None) -> None:
        base = Path(tempfile.gettempdir())
        longest = f"{base}/{_PREFIX}{_any_name()}/{_SOCKET}"
        if len(os.fsencode(longest)) > _MAX_SOCKET_PATH_BYTES:
            base = Path("/tmp")  # noqa: S108  # ours are private
        _sweep(base)
        self.path = base / f"{_PREFIX}{name or _any_name()}"
        if _is_taken(self.path):
            _log.warning("%s is not a private directory of this user: not used", self.path)
            self.path = base / f"{_PREFIX}{_any_name()}"
        self.socket = self.path / _SOCKET
        self.lifeline = self.path / _LIFELINE
        self.record = self.path / "server.json"

    @contextlib.contextmanager
    def locked(self, pause: Callable[[], None]) -> Iterator[None]:
        """Makes the directory if there is none, and keeps the others out of it.

        Args:
            pause: called between two tries; waits a little, or raises.

        Raises:
            OSError: the directory cannot be made, or somebody else's has its name.
        """
        while (lock := self._try_lock()) is None:
            pause()
        try:
            yield
        finally:
            close_held(lock)

    def _try_lock(self) -> int | None:
        with contextlib.suppress(FileExistsError):
            self.path.mkdir(mode=0o700)
        try:
            if not _is_ours(self.path):
                raise PermissionError(f"{self.path} is not a private directory of this user")
            return _lock(self.path, os.O_CREAT)
        except FileNotFoundError:  # removed between two lines of this
            return None

    def remove(self) -> None:
        """Removes the directory, which is locked, and what is in it."""
        _remove(self.path)


def _any_name() -> str:
    return secrets.token_urlsafe(NAME_BYTES)


def _is_taken(path: Path) -> bool:
    """Whether there is something that is not ours."""
    try:
        return not _is_ours(path)
    except FileNotFoundError:
        return False


def _is_ours(path: Path) -> bool:
    """Whether it is a directory, not a link to one, that belongs to this user and that nobody else may enter."""
    status = path.lstat()
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o077


def _lock(path: Path, how: int) -> int | None:
    """The lock of a directory, None if somebody has it."""
    file = path / _LOCK
    lock = open_held(file, os.O_RDWR | how)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(lock), file.lstat()):  # else the directory was removed since
            return lock
    except (BlockingIOError, FileNotFoundError):
        pass
    close_held(lock)
    return None


def _remove(path: Path) -> None:
    # It goes all at once, so that nobody begins to use what is half gone.
    gone = path.with_name(f"{_PREFIX}{_any_name()}")
    with contextlib.suppress(OSError):
        path.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)


def _sweep(base: Path) -> None:
    """Removes what users that were killed left behind, as far as it is this user's."""
    for path in base.glob(f"{_PREFIX}*"):
        try:
            if not _is_ours(path) or time.time() - path.lstat().st_mtime < _STALE_AFTER_S:
                continue
            lock = _lock(path, 0)
        except OSError:  # not one of ours: it has no lock; or just gone
            continue
        if lock is not None:
            if not is_read(path / _LIFELINE):
                _remove(path)
            close_held(lock)
