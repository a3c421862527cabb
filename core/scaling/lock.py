"""One autoscaler a user: two would undo each other's work, and share out the same cores."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from core.errors import ConfigError
from core.local.lifeline import close_held, open_held


@contextlib.contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Hold the lock as long as the context lasts. It ends with the process, however that ends.

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
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = path.read_text().strip()
            raise ConfigError(
                f"an autoscaler of this user runs already, process {holder}: there is one a user"
            ) from None
        os.truncate(lock, 0)
        os.write(lock, str(os.getpid()).encode())
        yield
    finally:
        close_held(lock)
