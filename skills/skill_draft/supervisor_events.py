"""What happens to an engine and its requests, and what is to be done: the language of `supervisor_state`."""

from __future__ import annotations

from typing import NamedTuple

from .engine import messages
from .engine.messages import Cancel, Failed, Request, Rows, RowsRead, WantRows
from .flight import Flight

# --- events, in addition to those that the engine sends ---


class Submitted(NamedTuple):
    """A new request."""

    flight: Flight


class Left(NamedTuple):
    """The caller has finished with a request, or has gone."""

    flight: Flight


class Gone(NamedTuple):
    """The engine process has ended."""

    how: str
    out_of_memory: bool = False
    """Whether the kernel killed it because memory ran out."""


class Tick(NamedTuple):
    """Time has passed, in seconds. Time in which this process was stopped does not count."""

    passed_s: float


class Encoding(NamedTuple):
    """The rows that a request wants are not there yet."""

    id: int
    images: int
    """Images of the request that are still to be encoded."""
    wait_s: float


class RowsFailed(NamedTuple):
    """The rows that a request wants will not come."""

    failed: Failed


Event = messages.Event | Submitted | Left | Gone | Tick | Encoding | RowsFailed | Rows

# --- actions ---


class Launch(NamedTuple):
    """Start an engine after a delay."""

    after_s: float


class Send(NamedTuple):
    """Send a command to the engine."""

    command: Request | Cancel | Rows


class Fetch(NamedTuple):
    """Get the rows that a request wants. `Rows`, `RowsFailed` and `Encoding` are the answers."""

    want: WantRows


class Release(NamedTuple):
    """Release rows that were sent to the engine."""

    read: RowsRead | None
    """None: all of them, as the engine is gone."""


class Kill(NamedTuple):
    """Kill the engine process."""

    why: str


class Rest(NamedTuple):
    """End the engine process, which has nothing to do."""


class Log(NamedTuple):
    """Log an error for the operator."""

    text: str


Action = Launch | Send | Kill | Rest | Log | Fetch | Release
