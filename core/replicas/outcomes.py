"""What a failed attempt says: of its replica, and of whether its call is tried again. The set's lock is held."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

from core.errors import CallError, DeadlineError, OverloadedError, UnavailableError
from core.quiet_grpc import grpc
from core.replicas.refusals import overloaded, unavailable
from core.rpc_status import never_arrived

if TYPE_CHECKING:
    from core.calls import Call
    from core.replicas.lease import Lease
    from core.replicas.replica_set import ReplicaSet

STRANGER_S = 1.5
STRANGER_ATTEMPTS = 5
"""What replicas get that never answered: they may come up just now, but most often the address is wrong."""
MAX_DEATHS = 2
"""A request that so many replicas died with is not tried at another one."""
_REPLICAS_FAULT = frozenset({grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.DATA_LOSS})
_REFUSALS = frozenset({"DRAINING", "LOADING", "ENGINE_GONE"})


def learn(replicas: ReplicaSet, lease: Lease, error: CallError) -> None:
    """Notes what an attempt's failure says of its replica."""
    member = lease.member
    match error:
        case UnavailableError() if error.reason in _REFUSALS:
            member.answers()
            if error.reason == "DRAINING":
                member.unwilling(error.details())
                replicas.follow(member)
            else:
                member.pause()
        case UnavailableError() if error.retry_after_s is not None:
            member.full(error.retry_after_s)
        case UnavailableError():
            gone = never_arrived(error.details())
            if not gone:
                lease.call.breaks.append((member, member.deaths))
            member.pause()  # a server that only says so is UP again at once, and must not be asked at once
            replicas.lose(member, error.details(), gone=gone)
        case OverloadedError():
            member.answers()
            if error.retry_after_s is not None:
                member.full(error.retry_after_s)
        case DeadlineError() if member.starts_itself and not lease.tokens:
            member.replica.lost = True  # perhaps it hangs: the next call looks
        case CallError() if error.code() in _REPLICAS_FAULT:
            member.failed()
        case _:
            pass


def check_retry(replicas: ReplicaSet, call: Call, error: CallError) -> None:
    """Raises the error where the call is not tried again."""
    if not call.can_go_on:
        raise error
    match error:
        case UnavailableError():
            _check_patience(replicas, call, error)
            # Of the last one it is not known yet; it counts.
            deaths = sum(member.deaths > noted for member, noted in call.breaks[:-1]) + bool(call.breaks)
            if deaths >= MAX_DEATHS:
                raise unavailable(replicas, call, f"{deaths} replicas died while they worked on it")
        case OverloadedError():
            now = time.monotonic()
            elsewhere = any(member.takes_calls(now) for member in replicas.members)
            call.out_of_time = not elsewhere and (error.retry_after_s or 0.0) >= call.remaining_s()
            if error.retry_after_s is None or call.out_of_time:
                raise error
        case _:
            raise error


def _check_patience(replicas: ReplicaSet, call: Call, error: CallError) -> None:
    """Raises the error where the replicas have failed for too long."""
    known = any(member.known for member in replicas.members)
    too_long = time.monotonic() - (call.failing_since_s or math.inf) >= replicas.config.recovery_s
    if too_long if known else call.attempts >= STRANGER_ATTEMPTS:
        raise error


def may_wait_s(replicas: ReplicaSet, call: Call) -> float:
    """How long a call that has no replica may wait for one, seconds; raises the error where that makes no sense."""
    now, members = time.monotonic(), replicas.members
    remaining_s = call.remaining_s()
    full = any(member.is_full(now) for member in members)
    opens_s = max(min((member.opens_s() for member in members), default=math.inf), call.not_before_s)
    if math.isfinite(opens_s):
        if opens_s - now >= remaining_s:  # it cannot be done in time: say so at once
            call.out_of_time = True
            raise call.last_error or _too_late(replicas, call, full, opens_s - now)
        return max(0.001, opens_s - now)
    if full and remaining_s > 0:  # until a call of ours ends there
        return remaining_s
    known = any(member.known for member in members)
    gives_up_s = call.waiting_since_s + (replicas.config.recovery_s if known else STRANGER_S)
    call.out_of_time = remaining_s <= 0
    if now >= gives_up_s or call.out_of_time:
        raise _too_late(replicas, call, full)
    return min(gives_up_s - now, remaining_s)


def _too_late(replicas: ReplicaSet, call: Call, full: bool, retry_after_s: float | None = None) -> CallError:
    return overloaded(replicas, call, retry_after_s) if full else unavailable(replicas, call)
