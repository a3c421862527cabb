"""The consequences of a failure: for its replica (`learn`), and for its call (`Outlook`)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from core.errors import (
    CallCancelledError,
    CallError,
    DeadlineError,
    NoImagesError,
    OverloadedError,
    UnavailableError,
)
from core.pool.events import Action, Doubt, Watch
from core.pool.records import Attempt, Call, Replica
from core.pool.rpc_status import never_arrived
from core.rpc import grpc

NEVER_SEEN_S = 1.5
NEVER_SEEN_ATTEMPTS = 5
"""Attempts at replicas that have never answered: they may be starting, but most often the address is wrong."""
MAX_DEATHS = 2
"""A request during which this many replicas died is not retried."""
_REPLICAS_FAULT = frozenset({grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.DATA_LOSS})


def lose(replica: Replica, why: str) -> Action:
    """Record that a replica does not answer. It is watched until it is back or, if it is ours, checked on next use."""
    replica.lose(why, gone=never_arrived(why))
    return Doubt(replica) if replica.starts_itself else Watch(replica)


def learn(attempt: Attempt, error: CallError, now: float) -> Action | None:  # noqa: C901  # a case a kind of failure
    """Record a failure at the attempt's replica, while the attempt still counts; return the action to take, if any."""
    from skills.wire import Reason

    replica = attempt.replica
    match error:
        case UnavailableError() if error.reason in Reason.__members__:
            replica.answer()
            if error.reason == Reason.DRAINING:
                replica.refuse(error.details())
                return None if replica.starts_itself else Watch(replica)
            replica.pause(now)
        case UnavailableError() if error.retry_after_s is not None:
            replica.fill(error.retry_after_s, now)
        case UnavailableError():
            if not never_arrived(error.details()):
                attempt.call.breaks.append((replica, replica.deaths))
            replica.pause(now)  # the server may report SERVING again at once, but must not be called at once
            return lose(replica, error.details())
        case OverloadedError():
            replica.answer()
            if error.retry_after_s is not None:
                replica.fill(error.retry_after_s, now)
        case NoImagesError():
            replica.answer()
            replica.refuse_images(now)
        case DeadlineError() if replica.starts_itself and not attempt.tokens:
            return Doubt(replica)  # it may be hung
        case _ if error.code() in _REPLICAS_FAULT:
            replica.fail(now)
    return None


class Outlook:
    """The replicas of a skill at one moment, and the prospects of its calls.

    Args:
        skill: The skill's name.
        replicas: The replicas at the targets.
        recovery_s: How long a call waits for a replica that is down, in seconds.
        now: The moment.
    """

    def __init__(self, skill: str, replicas: Sequence[Replica], recovery_s: float, now: float) -> None:
        self._skill = skill
        self._replicas = replicas
        self._recovery_s = recovery_s
        self._now = now
        self._known = any(replica.known for replica in replicas)
        self._full = any(replica.is_full(now) for replica in replicas)
        self._opens_s = min((replica.opens_s() for replica in replicas), default=math.inf)

    def why_final(self, call: Call, error: CallError) -> CallError | None:
        """Return the error of a call whose attempt has failed; None if it is to be retried."""
        if not call.resumable:
            return error
        match error:
            case UnavailableError():
                return self._why_not_elsewhere(call, error)
            case OverloadedError():
                elsewhere = any(replica.takes_calls(self._now) for replica in self._replicas)
                call.out_of_time = not elsewhere and (error.retry_after_s or 0.0) >= call.remaining_s(self._now)
                return error if error.retry_after_s is None or call.out_of_time else None
            case NoImagesError():
                there = (replica for replica in self._replicas if replica.takes_calls(self._now))
                return None if any(replica.reads(call, self._now) for replica in there) else error
            case _:
                return error

    def _why_not_elsewhere(self, call: Call, error: CallError) -> CallError | None:
        too_long = self._now - call.failing_since_s >= self._recovery_s
        if too_long if self._known else call.num_attempts >= NEVER_SEEN_ATTEMPTS:
            return error
        # Whether the last replica has died is not known yet, so it counts.
        deaths = sum(replica.deaths > noted for replica, noted in call.breaks[:-1]) + bool(call.breaks)
        return (
            self._unavailable(call, f"{deaths} replicas died while they worked on it") if deaths >= MAX_DEATHS else None
        )

    def waits_until(self, call: Call) -> float | CallError:
        """Return when to check a waiting call again, or the error with which it fails if waiting is pointless."""
        opens_s = max(self._opens_s, call.not_before_s)
        if math.isfinite(opens_s):
            if opens_s >= call.deadline_s:  # it cannot be completed in time: fail now
                call.out_of_time = True
                return call.last_error or self._too_late(call, opens_s - self._now)
            return opens_s
        call.out_of_time = call.remaining_s(self._now) <= 0
        if self._full and not call.out_of_time:  # until one of our calls ends there
            return call.deadline_s
        gives_up_s = call.waiting_since_s + (self._recovery_s if self._known else NEVER_SEEN_S)
        if call.out_of_time or self._now >= gives_up_s:
            return self._too_late(call, None)
        return min(gives_up_s, call.deadline_s)

    # --- the pool's own errors ---

    def line_is_full(self, call: Call, waiting: int) -> CallError:
        """Return the error for a full waiting line, with the wait that a replica has asked for."""
        retry_after_s = call.last_error.retry_after_s if call.last_error else None
        return self._overloaded(f"{waiting} calls wait for a replica already", retry_after_s)

    def left(self, call: Call) -> CallError:
        """Return the error for a call that its caller or client has closed."""
        why = "it was closed" if call.attempt else "it was closed while it waited for a replica"
        target = call.attempt.replica.target if call.attempt else self._target
        return CallCancelledError(code=grpc.StatusCode.CANCELLED, details=why, skill=self._skill, target=target)

    def gone(self, replica: Replica, why: str) -> CallError:
        """Return the error for a replica that is gone, as far as the pool can tell."""
        code = grpc.StatusCode.UNAVAILABLE
        return UnavailableError(code=code, details=why, skill=self._skill, target=replica.target)

    def _too_late(self, call: Call, retry_after_s: float | None) -> CallError:
        if not self._full:
            return self._unavailable(call)
        return call.last_error or self._overloaded("no replica has room in time", retry_after_s)

    def _overloaded(self, why: str, retry_after_s: float | None) -> CallError:
        return OverloadedError(
            code=grpc.StatusCode.RESOURCE_EXHAUSTED,
            details=why,
            skill=self._skill,
            target=self._target,
            retry_after_s=retry_after_s,
        )

    def _unavailable(self, call: Call, why: str = "") -> CallError:
        """Return the error for a call without replicas left, with those that were tried and why each failed."""
        if not why and len(self._replicas) == 1 and call.last_error is not None:
            return call.last_error
        said = {replica.target: replica.why_down for replica in self._replicas if replica.why_down} | call.tried
        each = "; ".join(f"{target}: {reason}" for target, reason in said.items())
        why = why or "no replica answers"
        return UnavailableError(
            code=grpc.StatusCode.UNAVAILABLE,
            details=f"{why} ({each})" if each else why,
            skill=self._skill,
            target=self._target,
        )

    @property
    def _target(self) -> str:
        return ",".join(replica.target for replica in self._replicas)
