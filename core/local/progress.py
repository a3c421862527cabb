"""Events that the pool reports while it starts a local server. `ModelPool(on_progress=…)` takes a handler for them."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Starting:
    """The process of the server was started."""

    skill: str
    log: Path
    """File that the server logs to."""
    restart: bool
    """Whether it replaces one that ended unexpectedly."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """The server is not ready yet. Reported about every second."""

    skill: str
    elapsed_s: float
    """Seconds since it was started."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """The server is ready."""

    skill: str
    elapsed_s: float
    """Seconds since it was started."""
    target: str
    """Address of the server."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Absent:
    """No replica is there; calls wait for one that an autoscaler brings."""

    skill: str
    scaler: str
    """Address of the autoscaler."""

    def __str__(self) -> str:
        return f"no replica of the {self.skill} skill is there: waiting for the autoscaler at {self.scaler}"


Progress = Starting | Waiting | Serving | Absent
OnProgress = Callable[[Progress], None]


def report(event: Progress) -> None:
    """Report an event the default way: a line on standard error if that is a terminal, else the log at INFO."""
    match event:
        case Starting(skill=skill, log=log, restart=restart):
            again = " again" if restart else ""
            _tell(f"starting the {skill} skill{again} as a local process (log: {log})")
        case Absent():
            _tell(str(event))
        case Serving(skill=skill, elapsed_s=elapsed_s, target=target):
            _log.info("the %s skill serves at %s after %.1f s", skill, target, elapsed_s)
        case Waiting():
            pass


def _tell(line: str) -> None:
    if sys.stderr is not None and sys.stderr.isatty():
        sys.stderr.write(f"{line}\n")
    else:
        _log.info("%s", line)
