"""The folder of prefixes: which files are in it, and how it is emptied. The server needs this too."""

from __future__ import annotations

import contextlib
from pathlib import Path

from .private_folder import locked

SUFFIX, UNFINISHED = ".kv", ".part"
_HEX_DIGITS = 64  # of a file's name: it is a SHA-256


def clear(folder: Path) -> tuple[int, int]:
    """Remove all prefixes in a folder; return how many files they were, and their bytes.

    What an engine has mapped stays with it as long as it reads that.

    Raises:
        OSError: The folder does not let this process write.
    """
    files = num_bytes = 0
    with locked(folder):  # emptied in any case: an engine that holds the folder for long is stopped
        for path in folder.iterdir():
            if path.suffix in (SUFFIX, UNFINISHED) and len(path.stem) == _HEX_DIGITS:
                with contextlib.suppress(FileNotFoundError):
                    size = path.stat().st_size
                    path.unlink()
                    files, num_bytes = files + 1, num_bytes + size
    return files, num_bytes
