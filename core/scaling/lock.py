"""One autoscaler a user: two would undo each other's work, and share out the same cores."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path

from core.errors import ConfigError
from core.local.lifeline import close_held, open_held

_LOOK_S = 0.1
_log = logging.getLogger(__name__)


@contextlib.contextmanager
def only_one(folder: Path) -> Iterator[int]:
    """Hold the lock as long as the context lasts, and yield its descriptor.

    It ends with this process, however that ends, and with those that it gives the descriptor to, as they still change
    what there is. The next autoscaler waits for them.

    Args:
        folder: Where the lock is, a folder of this user.

    Raises:
        ConfigError: Another process has it, which the message names; or the folder cannot be written.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = open_held(path := folder / "scaler.lock", os.O_RDWR | os.O_CREAT)
    except OSError as error:
        why = f"{folder}, where the lock of this user's autoscaler is, cannot be written: {error.strerror}"
        raise ConfigError(f"{why} (XDG_STATE_HOME chooses another one)") from None
    try:
        _take(lock, path)
        os.truncate(lock, 0)
        os.write(lock, str(os.getpid()).encode())
        yield lock
    finally:
        close_held(lock)


def _take(lock: int, path: Path) -> None:
    awaited = ""
    while True:
        with contextlib.suppress(BlockingIOError):
            return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        holder = path.read_text().strip()
        if Path(f"/proc/{holder}").exists():
            raise ConfigError(f"an autoscaler of this user runs already, process {holder}: there is one a user")
        if holder != awaited:
            _log.warning("waiting for what the autoscaler before, process %s, still starts", holder)
        awaited = holder
        time.sleep(_LOOK_S)
