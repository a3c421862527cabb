"""The status of a skill and its replicas, from the pool's point of view."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from core.pool.backend import Origin
from core.pool.records import Call, Replica


@dataclass(slots=True)
class CallStats:
    """Numbers of calls and of their attempts."""

    calls: int = 0
    """Calls made by callers."""
    attempts: int = 0
    """Requests that were sent for them."""
    retries: int = 0
    """Further attempts at the same replica."""
    failovers: int = 0
    """Further attempts at another replica."""
    hedges: int = 0
    """Attempts at another replica while the first one was still running."""
    moves: int = 0
    """Calls that were sent to another replica because their prompts waited behind others."""

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
    """`serving`, `down`, `ejected` (after failures), `paused` (full, or not ready) or `stopped`."""
    why: str
    """Why it is down; empty if it is not."""
    outstanding: int
    """Running calls of this pool."""
    calls: int
    """Attempts at this replica."""
    failures: int
    """Attempts that failed through its fault."""
    pid: int | None
    """Its process id, if the process is ours."""
    restarts: int
    """How often its process was restarted."""
    log: Path | None
    """Its log, if the process is ours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SkillStatus:
    """One skill."""

    skill: str
    """Its name."""
    origin: Origin | None
    """The source of its replicas; None if the pool has not looked for them yet."""
    waiting: int
    """Calls that wait for a replica."""
    calls: int
    """Calls that were made."""
    attempts: int
    """Requests that were sent for them."""
    failovers: int
    """Attempts at another replica after a failure."""
    replicas: tuple[ReplicaStatus, ...]
    """Its replicas."""
