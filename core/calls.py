"""What every call of a client goes by, sync or async: its deadline, its errors, and when it is tried again."""

from __future__ import annotations

import math
import os
import random
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from core.errors import CallError, PoolClosedError, UnavailableError
from core.quiet_grpc import grpc
from core.rpc_status import call_error

if TYPE_CHECKING:
    from core.backends import Replica
    from core.config import PoolConfig
    from core.skill import SkillSpec

Metadata = Sequence[tuple[str, str | bytes]]

# Envoy's figures: 0.1 s to 1 s, doubling, jitter over the whole interval.
FIRST_BACKOFF_S = 0.1
MAX_BACKOFF_S = 1.0
MAX_ATTEMPTS_AT_STRANGERS = 5
"""Attempts at a target that never answered: it may come up just now, but most often the address is wrong."""


class Attempts:
    """One call and its attempts.

    Args:
        timeout_s: the deadline of the call, seconds from now.
    """

    __slots__ = ("_deadline", "_failures", "_lost_at", "received")

    def __init__(self, timeout_s: float) -> None:
        self._deadline = time.monotonic() + timeout_s
        self._failures = 0
        self._lost_at: float | None = None
        self.received = False
        """Whether a piece of the answer has come. What has begun is not begun again."""

    def remaining_s(self) -> float:
        """Seconds to the deadline, 0 if it is over."""
        return max(0.0, self._deadline - time.monotonic())

    def backoff_s(self, error: CallError, *, known: bool, recovery_s: float) -> float | None:
        """Seconds to wait before the next attempt, or None if there is none.

        Args:
            error: how the last attempt failed.
            known: whether the replica has ever answered.
            recovery_s: how long a known replica may be away.
        """
        if self.received or error.code() is not grpc.StatusCode.UNAVAILABLE:
            return None
        now = time.monotonic()
        self._failures += 1
        self._lost_at = now if self._lost_at is None else self._lost_at
        if known and now - self._lost_at >= recovery_s:
            return None
        if not known and self._failures >= MAX_ATTEMPTS_AT_STRANGERS:
            return None
        longest = min(MAX_BACKOFF_S, FIRST_BACKOFF_S * 2.0 ** min(self._failures - 1, 10))
        wait_s = max(random.uniform(0.0, longest), error.retry_after_s or 0.0)  # noqa: S311  # jitter
        return wait_s if wait_s < self.remaining_s() else None


class CallRules:
    """What the calls of one client share.

    Args:
        skill: the skill's name.
        replica: where the calls go.
        config: the pool's settings.
    """

    def __init__(self, *, skill: str, replica: Replica, config: PoolConfig) -> None:
        self.skill = skill
        self.replica = replica
        self.closed = False
        self._config = config
        self._pid = os.getpid()
        self._known = replica.origin != "address"  # the others said SERVING a moment ago

    def begin(self, method: str, timeout_s: float | None) -> Attempts:
        """A call begins.

        Raises:
            ValueError: the timeout is not a number of seconds.
            PoolClosedError: the client is closed, or belongs to another process.
        """
        if self.closed:
            raise PoolClosedError(f"the client of skill {self.skill!r} is closed; get another one from the pool")
        if os.getpid() != self._pid:
            # gRPC's threads do not live on after a fork: the call would hang.
            raise PoolClosedError(
                f"the client of skill {self.skill!r} belongs to process {self._pid}; "
                f"this is process {os.getpid()}: ask get_model_pool() for a new one"
            )
        if timeout_s is None:
            timeout_s = self._config.health_timeout_s if method == "Health" else self._config.call_timeout_s
        if not (math.isfinite(timeout_s) and timeout_s >= 0):
            raise ValueError(f"timeout must be a finite number of seconds from 0 on, not {timeout_s!r}")
        return Attempts(timeout_s)

    def answered(self) -> None:
        """The replica answered."""
        self._known = True
        self.replica.lost = False

    def backoff_s(self, error: grpc.RpcError, attempts: Attempts) -> float:
        """Seconds to wait before the next attempt after one that failed.

        Raises:
            CallError: there is none, and this is why the call fails.
        """
        ours = call_error(error, skill=self.skill, target=self.replica.target)
        wait_s = attempts.backoff_s(ours, known=self._known, recovery_s=self._config.recovery_s)
        if wait_s is None:
            self.replica.lost = isinstance(ours, UnavailableError)
            raise ours from error
        return wait_s


class ClientFace(ABC):
    """What the sync and the async client have in common: who they are, and the methods of the stub by name."""

    def __init__(self, spec: SkillSpec, replica: Replica, config: PoolConfig, channel: Any) -> None:
        self._rules = CallRules(skill=spec.name, replica=replica, config=config)
        self._channel = channel
        self._stub = spec.stub(channel)

    @property
    def skill(self) -> str:
        """The skill's name."""
        return self._rules.skill

    @property
    def target(self) -> str:
        """The address that is called."""
        return self._rules.replica.target

    @property
    def origin(self) -> str:
        """Where the address comes from: `address` (it was set), `running` (found on this host) or `embedded`."""
        return self._rules.replica.origin

    @property
    def closed(self) -> bool:
        """Whether the client was closed."""
        return self._rules.closed

    def calls(self, replica: Replica) -> bool:
        """Whether this is the replica that the client calls."""
        return self._rules.replica is replica

    def __getattr__(self, method: str) -> Callable[..., Any]:
        """Any other method of the skill's stub that takes one request."""
        if not method.startswith("_"):
            stub_method = getattr(self._stub, method, None)
            if isinstance(stub_method, (grpc.UnaryUnaryMultiCallable, grpc.aio.UnaryUnaryMultiCallable)):
                return partial(_with_positions, self._unary, method)
            if isinstance(stub_method, (grpc.UnaryStreamMultiCallable, grpc.aio.UnaryStreamMultiCallable)):
                return partial(_with_positions, self._stream, method)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {method!r}")

    @abstractmethod
    def _unary(self, method: str, request: Any, timeout: float | None, metadata: Metadata | None) -> Any: ...

    @abstractmethod
    def _stream(self, method: str, request: Any, timeout: float | None, metadata: Metadata | None) -> Any: ...

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.skill} at {self.target} ({self.origin})>"


def _with_positions(
    call: Callable[..., Any], method: str, request: Any, timeout: float | None = None, metadata: Metadata | None = None
) -> Any:
    """Takes the arguments of a stub's method, by position or by name."""
    return call(method, request, timeout, metadata)
