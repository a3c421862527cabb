"""How a skill and its replicas are, as the pool sees them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from core.pool.backend import Origin
from core.pool.records import Call, Replica


@dataclass(slots=True)
class CallStats:
    """Calls, and how often they went out."""

    calls: int = 0
    """Calls that callers made."""
    attempts: int = 0
    """Requests that were sent for them."""
    retries: int = 0
    """Further attempts at the same replica."""
    failovers: int = 0
    """Further attempts at another replica."""
    hedges: int = 0
    """Attempts at another replica while the first one still had time."""

    def attempt(self, call: Call, replica: Replica, *, hedge: bool) -> None:
        """Count an attempt of a call at a replica."""
        self.attempts += 1
        if hedge:
            self.hedges += 1
        elif call.last_replica is replica:
            self.retries += 1
        elif call.last_replica is not None:
            self.failovers += 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaStatus:
    """One replica."""

    target: str
    """Its address."""
    state: str
    """`serving`, `down`, `ejected` (left out for its failures), `paused` (full, or not ready) or `stopped`."""
    why: str
    """Why it is down; empty where it is not."""
    outstanding: int
    """Calls of this pool that run there."""
    calls: int
    """Attempts that went there."""
    failures: int
    """Those of them that failed through its fault."""
    pid: int | None
    """Its process, where it is one of ours."""
    restarts: int
    """How often its process was started again."""
    log: Path | None
    """Its log, where it is one of ours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SkillStatus:
    """One skill."""

    skill: str
    """Its name."""
    origin: Origin | None
    """Where its replicas come from; None where the pool has not looked for them yet."""
    waiting: int
    """Calls that wait for a replica."""
    calls: int
    """Calls that were made."""
    attempts: int
    """Requests that were sent for them."""
    failovers: int
    """Attempts that went on at another replica."""
    replicas: tuple[ReplicaStatus, ...]
    """Its replicas."""
