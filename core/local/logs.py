"""The logs of local servers: a folder a skill, a file a start."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

_KEPT = 20
_TAIL_LINES = 5
_TAIL_BYTES = 4096


def new_log(folder: Path, skill: str) -> Path:
    """A new empty log file, readable for this user only; of those that are there, the newest stay."""
    name = f"{time.strftime('%Y%m%dT%H%M%S')}-{os.getpid()}-"
    try:
        own = folder / skill
        own.mkdir(mode=0o700, parents=True, exist_ok=True)
        for old in sorted(own.glob("*.log"))[: -(_KEPT - 1)]:
            old.unlink(missing_ok=True)
        descriptor, path = tempfile.mkstemp(prefix=name, suffix=".log", dir=own)
    except OSError:  # a home that cannot be written to is no reason not to start
        descriptor, path = tempfile.mkstemp(prefix=f"sarai-{skill}-{name}", suffix=".log")
    os.close(descriptor)
    return Path(path)


def log_tail(path: Path | None) -> tuple[str, ...]:
    """The last lines of a log that are not empty."""
    if path is None:
        return ()
    try:
        with path.open("rb") as log:
            log.seek(max(0, path.stat().st_size - _TAIL_BYTES))
            lines = log.read().decode(errors="replace").splitlines()
    except OSError:
        return ()
    return tuple(line.strip() for line in lines if line.strip())[-_TAIL_LINES:]
