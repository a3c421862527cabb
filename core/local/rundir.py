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
import stat
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A server, as whoever started it has noted it. Times are of the monotonic clock, the same for all processes."""

    log: str
    started_s: float
    gives_up_s: float
    """If it has never served by then, it never will."""
    restarts: tuple[float, ...] = ()
    """When one that had ended unasked was replaced, of late."""
    pid: int | None = None

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """What is noted there; None if there is nothing, or who wrote it was killed over it."""
        try:
            return cls(**json.loads(path.read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def write(self, path: Path) -> None:
        """Notes it there. The directory is locked."""
        path.write_text(json.dumps(asdict(self)))


_SETTINGS = "SKILL_"


def share_key(spec: SkillSpec, environment: Mapping[str, str]) -> str:
    """A name that is the same where the same server would be started: SHA-256 of all that decides what it serves.

    Args:
        spec: the skill.
        environment: what the server would get. Of its variables only the skills' settings and PYTHONPATH count.

    Returns:
        The first 120 bits, in letters that a file's name may have: the path of a socket has no room for more.
    """
    decides = {
        "user": os.getuid(),
        # Process ids and paths mean other things in another container, though /tmp may be the same.
        "namespaces": [_namespace("pid"), _namespace("mnt")],
        "skill": [spec.name, spec.version],
        "python": sys.executable,
        "serve": [_meant(argument) for argument in spec.serve],
        "modules": _search_path(spec.serve, environment["PYTHONPATH"].split(os.pathsep)),
        "settings": sorted((name, _meant(value)) for name, value in environment.items() if name.startswith(_SETTINGS)),
    }
    digest = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).digest()
    return base64.urlsafe_b64encode(digest[:NAME_BYTES]).decode()


def _namespace(kind: str) -> str:
    try:
        return str(Path(f"/proc/self/ns/{kind}").readlink())
    except OSError:
        return ""


def _meant(value: str) -> str:
    """A path that is relative to the working directory in full, since others work elsewhere; anything else as it is."""
    return str(Path(value).absolute()) if os.path.lexists(value) else value


def _search_path(serve: tuple[str, ...], path: list[str]) -> list[str]:
    """Where the server's modules are looked for.

    Python puts the directory of the program, or the working directory, before all others. It is left out if the server
    would be found in the same place without it: else only runs of the same program could share.
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
