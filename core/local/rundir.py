"""A private directory for the socket of a server, known by its name to all processes that want the same server."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import hashlib
import json
import logging
import os
import secrets
import shutil
import socket
import stat
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib.machinery import PathFinder
from pathlib import Path
from typing import TYPE_CHECKING, Self

from core.local.lifeline import close_held, is_read, open_held

if TYPE_CHECKING:
    from core.skill import SkillSpec


NAME_BYTES = 15
"""Bytes of a name, which in base 64 has 20 characters. A longer one would leave less room for the folder's path."""

_PREFIX = "sarai-"
_LOCK = "lock"
_LIFELINE = "lifeline"
_SOCKET = "skill.sock"  # short, whatever the name of the skill
_MAX_SOCKET_PATH_BYTES = 100  # systems allow 104 to 108
_STALE_AFTER_S = 60.0

_log = logging.getLogger(__name__)


class RunDir:
    """A directory of mode 0700, made when it is first locked. Its last user removes it.

    Its contents show whether it is in use. Process ids would not do: containers may share a directory for temporary
    files, but not their ids.

    Args:
        name: Equal names share a directory. None, or a name that another user has taken, gives one of its own.
    """

    def __init__(self, name: str | None) -> None:
        base = Path(tempfile.gettempdir())
        longest = f"{base}/{_PREFIX}{_any_name()}/{_SOCKET}"
        if len(os.fsencode(longest)) > _MAX_SOCKET_PATH_BYTES:
            base = Path("/tmp")  # noqa: S108  # our directories are private
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
        """Make the directory if there is none, and lock it.

        Args:
            pause: Called between two tries; waits a little, or raises.

        Raises:
            OSError: The directory cannot be made, or is not a private one of this user.
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
        except FileNotFoundError:  # removed meanwhile
            return None

    def remove(self) -> None:
        """Remove the directory, which must be locked, with its contents."""
        _remove(self.path)

    def server_pid(self) -> int | None:
        """Return the process id of its server: the noted one; if there is none, of what listens at the socket.

        The process that started it may have been killed before it noted the id.
        """
        record = Record.read(self.record)
        return record.pid if record is not None and record.pid is not None else _listener(self.socket)


_CREDENTIALS = struct.Struct("3i")


def _listener(path: Path) -> int | None:
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as connection:
        connection.setblocking(False)
        connection.connect(str(path))
        told = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        return int(_CREDENTIALS.unpack(told)[0]) or None
    return None


def _any_name() -> str:
    return secrets.token_urlsafe(NAME_BYTES)


def _is_taken(path: Path) -> bool:
    """Return whether something else has this path."""
    try:
        return not _is_ours(path)
    except FileNotFoundError:
        return False


def _is_ours(path: Path) -> bool:
    """Return whether a path is a directory, not a link, that belongs to this user and that no other user may enter."""
    status = path.lstat()
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o077


def _lock(path: Path, how: int) -> int | None:
    """Return the lock of a directory, None if it is taken."""
    file = path / _LOCK
    lock = open_held(file, os.O_RDWR | how)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(lock), file.lstat()):  # otherwise the directory was removed since
            return lock
    except (BlockingIOError, FileNotFoundError):
        pass
    close_held(lock)
    return None


def _remove(path: Path) -> None:
    # Renamed first, so that no process starts to use a directory that is half removed.
    gone = path.with_name(f"{_PREFIX}{_any_name()}")
    with contextlib.suppress(OSError):
        path.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)


def _sweep(base: Path) -> None:
    """Remove what killed processes of this user left behind."""
    for path in base.glob(f"{_PREFIX}*"):
        try:
            if not _is_ours(path) or time.time() - path.lstat().st_mtime < _STALE_AFTER_S:
                continue
            lock = _lock(path, 0)
        except OSError:  # no lock, so not one of ours, or gone meanwhile
            continue
        if lock is not None:
            if not is_read(path / _LIFELINE):
                _remove(path)
            close_held(lock)


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A server, as noted by the process that started it. Times are of the monotonic clock that all processes share."""

    log: str
    started_s: float
    gives_up_s: float
    """When its time to start is over."""
    restarts: tuple[float, ...] = ()
    """Recent times at which a server that had ended unexpectedly was replaced."""
    pid: int | None = None

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """Read a record; None if there is none, or its writer was killed halfway."""
        try:
            return cls(**json.loads(path.read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def write(self, path: Path) -> None:
        """Write the record. The directory must be locked."""
        path.write_text(json.dumps(asdict(self)))


_SETTINGS = "SKILL_"


def share_key(spec: SkillSpec, environment: Mapping[str, str]) -> str:
    """Return a name that is equal for equal servers: SHA-256 of all that decides what a server serves.

    Args:
        spec: The skill.
        environment: The server's environment. Of its variables only the skills' settings and PYTHONPATH count.

    Returns:
        The first 120 bits, in characters that a file name may have: the path of a socket has no room for more.
    """
    decides = {
        "user": os.getuid(),
        # Process ids and paths differ in meaning between containers that share /tmp.
        "namespaces": [_namespace("pid"), _namespace("mnt")],
        "skill": [spec.name, spec.version],
        "python": sys.executable,
        "serve": [_meant(argument) for argument in spec.serve],
        "modules": _search_path(spec.serve, environment["PYTHONPATH"].split(os.pathsep)),
        "settings": sorted((name, _meant(value)) for name, value in environment.items() if name.startswith(_SETTINGS)),
    }
    digest = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).digest()
    return base64.urlsafe_b64encode(digest[:NAME_BYTES]).decode()


def numbered(name: str, number: int) -> str:
    """Return the name of one of several equal servers."""
    return f"{name}.{number}" if number else name


def _namespace(kind: str) -> str:
    try:
        return str(Path(f"/proc/self/ns/{kind}").readlink())
    except OSError:
        return ""


def _meant(value: str) -> str:
    """Return an existing path as an absolute one, since working directories differ; anything else as it is."""
    return str(Path(value).absolute()) if os.path.lexists(value) else value


def _search_path(serve: tuple[str, ...], path: list[str]) -> list[str]:
    """Return where the server's modules are searched for.

    Python puts the directory of the program, or the working directory, before all others. It is left out if the server
    would be found in the same place without it; otherwise only runs of the same program could share.
    """
    program = getattr(sys.modules.get("__main__"), "__file__", None)
    own = {str(Path(program).resolve().parent)} if program else set()
    with contextlib.suppress(FileNotFoundError):  # the working directory was removed
        own.add(str(Path.cwd()))
    if serve[0] == "-m" and len(serve) > 1 and path[0] in own:
        package = serve[1].partition(".")[0]
        if _place(package, path) == _place(package, path[1:]):
            return path[1:]
    return path


def _place(package: str, path: list[str]) -> tuple[str | None, list[str]] | None:
    found = PathFinder.find_spec(package, path)
    return (found.origin, list(found.submodule_search_locations or ())) if found else None
