"""The errors that are the pool's own: no replica is left, or too many calls wait for one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.errors import CallCancelledError, CallError, OverloadedError, UnavailableError
from core.quiet_grpc import grpc

if TYPE_CHECKING:
    from core.calls import Call
    from core.replicas.member import Member
    from core.replicas.replica_set import ReplicaSet


def line_is_full(replicas: ReplicaSet, call: Call) -> CallError:
    """There is no room to wait. What a replica asked the call to wait goes along."""
    why = f"{replicas.waiting} calls wait for a replica already"
    return _exhausted(replicas, why, call.last_error.retry_after_s if call.last_error else None)


def overloaded(replicas: ReplicaSet, call: Call, retry_after_s: float | None) -> CallError:
    """No replica has had room in the time that the call had; what one of them said, where one was asked."""
    return call.last_error or _exhausted(replicas, "no replica has room in time", retry_after_s)


def _exhausted(replicas: ReplicaSet, why: str, retry_after_s: float | None) -> CallError:
    return OverloadedError(
        code=grpc.StatusCode.RESOURCE_EXHAUSTED,
        details=why,
        skill=replicas.spec.name,
        target=replicas.target,
        retry_after_s=retry_after_s,
    )


def given_up(replicas: ReplicaSet) -> CallError:
    """The caller has closed the call while it waited for a replica."""
    return CallCancelledError(
        code=grpc.StatusCode.CANCELLED,
        details="it was closed while it waited for a replica",
        skill=replicas.spec.name,
        target=replicas.target,
    )


def left_behind(replicas: ReplicaSet) -> CallError:
    """A stream of asyncio is read in another event loop than it was begun in."""
    return CallCancelledError(
        code=grpc.StatusCode.CANCELLED,
        details="it was begun in another event loop: read an answer to its end in one, or ask again",
        skill=replicas.spec.name,
        target=replicas.target,
    )


def unavailable_at(replicas: ReplicaSet, member: Member, why: str) -> CallError:
    """One replica is not there any more, as far as the pool can tell."""
    return UnavailableError(
        code=grpc.StatusCode.UNAVAILABLE, details=why, skill=replicas.spec.name, target=member.target
    )


def unavailable(replicas: ReplicaSet, call: Call, why: str = "") -> CallError:
    """Nobody is left: the error says which replicas were tried, and what each of them said."""
    members = replicas.members
    if not why and len(members) == 1 and call.last_error is not None:
        return call.last_error
    said = {member.target: member.why_down for member in members if member.why_down} | call.tried
    each = "; ".join(f"{target}: {reason}" for target, reason in said.items())
    return UnavailableError(
        code=grpc.StatusCode.UNAVAILABLE,
        details=f"{why or 'no replica answers'} ({each})" if each else why or "no replica answers",
        skill=replicas.spec.name,
        target=replicas.target,
    )
