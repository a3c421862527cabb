"""Descriptors that hold something as long as they are open: a lock, a lifeline. Forked children must not keep them."""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path

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
