"""The events that the pool receives, and the actions that it decides on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from core.errors import CallError
from core.pool.records import Attempt, Call, Replica

# --- events ---


class Asked(NamedTuple):
    """A new call needs a replica."""

    call: Call


class Heard(NamedTuple):
    """A piece has arrived."""

    attempt: Attempt
    tokens: int
    resumable: bool
    """Whether, after this piece, another attempt could still provide the rest."""


class Succeeded(NamedTuple):
    """The complete answer has arrived."""

    attempt: Attempt
    tokens: int = 1


class Failed(NamedTuple):
    """An attempt has failed."""

    attempt: Attempt
    error: CallError


class Left(NamedTuple):
    """The caller has abandoned a call."""

    call: Call


class ClientClosed(NamedTuple):
    """A client has abandoned all its calls."""

    owner: object


class HealthTold(NamedTuple):
    """A replica has reported its health."""

    replica: Replica
    serving: bool
    why: str = ""
    """Why it reports nothing; empty if it does."""


class Probed(NamedTuple):
    """A replica with silent calls was probed."""

    replica: Replica
    since_s: float
    """Concerns calls that have been silent since then."""
    connection_dead: bool
    why: str = ""
    """Why it does not answer over a new connection either; empty if it does."""


class Targets(NamedTuple):
    """The addresses have been resolved again."""

    targets: Sequence[str]


class Tick(NamedTuple):
    """Time has passed."""


class Closed(NamedTuple):
    """The pool is closed."""


Event = Asked | Heard | Succeeded | Failed | Left | ClientClosed | HealthTold | Probed | Targets | Tick | Closed

# --- actions ---


class Begin(NamedTuple):
    """Send the call to the attempt's replica: wake its caller or, for a hedge, begin the race."""

    attempt: Attempt


class End(NamedTuple):
    """End an attempt. If it has a `why_over`, cancel it, as it has not ended by itself."""

    attempt: Attempt


class Fail(NamedTuple):
    """Fail a call with its `error`, and wake its caller."""

    call: Call


class Prod(NamedTuple):
    """Make the reader of a silent attempt notice an end that was lost."""

    attempt: Attempt


class Probe(NamedTuple):
    """Probe the replica of a silent attempt, and report `Probed`."""

    attempt: Attempt
    since_s: float


class Watch(NamedTuple):
    """Watch a replica's health: over a new connection if it is down, no longer if it is leaving."""

    replica: Replica


class Doubt(NamedTuple):
    """A local process may be gone or hung: have the next call check it first."""

    replica: Replica


Action = Begin | End | Fail | Prod | Probe | Watch | Doubt
