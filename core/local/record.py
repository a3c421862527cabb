"""What the users of a local server leave for each other to know, in a file beside its socket."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self


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
