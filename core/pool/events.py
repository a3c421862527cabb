"""What happens to the pool, and what it decides to do about it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from core.errors import CallError
from core.pool.records import Attempt, Call, Replica

# --- events ---


class Asked(NamedTuple):
    """A new call wants a replica."""

    call: Call


class Heard(NamedTuple):
    """A piece has come."""

    attempt: Attempt
    tokens: int
    resumable: bool
    """Whether, with this piece, another attempt could still give the caller what is missing."""


class Succeeded(NamedTuple):
    """The whole answer has come."""

    attempt: Attempt
    tokens: int = 1


class Failed(NamedTuple):
    """An attempt has failed."""

    attempt: Attempt
    error: CallError


class Left(NamedTuple):
    """The caller wants nothing more of a call."""

    call: Call


class ClientClosed(NamedTuple):
    """A client wants nothing more of any of its calls."""

    owner: object


class HealthTold(NamedTuple):
    """A replica has said how it is."""

    replica: Replica
    serving: bool
    why: str = ""
    """Why it says nothing at all; empty where it does."""


class Probed(NamedTuple):
    """A replica with silent calls was asked whether it is there."""

    replica: Replica
    since_s: float
    """Calls that have heard nothing since then are concerned."""
    connection_dead: bool
    why: str = ""
    """Why it does not answer over a new connection either; empty where it does."""


class Targets(NamedTuple):
    """These are the addresses now."""

    targets: Sequence[str]


class Tick(NamedTuple):
    """Time has passed."""


class Closed(NamedTuple):
    """The pool ends."""


Event = Asked | Heard | Succeeded | Failed | Left | ClientClosed | HealthTold | Probed | Targets | Tick | Closed

# --- actions ---


class Begin(NamedTuple):
    """Send the call to the attempt's replica. Its caller is woken, or, for a hedge, the race begun."""

    attempt: Attempt


class End(NamedTuple):
    """An attempt is over. Where it has a `why_over`, it is to be cancelled: nobody else has ended it."""

    attempt: Attempt


class Fail(NamedTuple):
    """A call has failed, with its `error`; its caller is woken."""

    call: Call


class Prod(NamedTuple):
    """An attempt is silent: make its reader notice an end that was lost."""

    attempt: Attempt


class Probe(NamedTuple):
    """Ask the replica of an attempt that is silent whether it is there, and report `Probed`."""

    attempt: Attempt
    since_s: float


class Follow(NamedTuple):
    """Follow a replica's health: over a new connection if it is down, no more if it is leaving."""

    replica: Replica


class Doubt(NamedTuple):
    """A local process may be gone or hang: the next call is to look first."""

    replica: Replica


Action = Begin | End | Fail | Prod | Probe | Follow | Doubt
