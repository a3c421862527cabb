"""The differences between the sync and the async client: sending a request, reading, and waiting."""

from __future__ import annotations

import math
import os
import threading
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Coroutine, Sequence
from typing import TYPE_CHECKING, Any

from core.errors import PoolClosedError
from core.pool.events import ClientClosed

if TYPE_CHECKING:
    from core.pool.backend import Backend
    from core.pool.records import Attempt, Replica
    from core.pool.replica_set import ReplicaSet

Metadata = Sequence[tuple[str, str | bytes]]
END: Any = object()
"""Marks the end of a stream."""


class Caller(ABC):
    """What makes a call: a thread, or an event loop."""

    @abstractmethod
    def wake(self) -> None:
        """Wake it, from any thread."""

    @abstractmethod
    async def wait(self) -> None:
        """Wait until woken since the last wait."""

    @abstractmethod
    def aside(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Start a coroutine concurrently with the call, from any thread, and return at once."""


class Wire(ABC):
    """The channels of one client. Coroutines of the sync client's never suspend: `core.pool.client.finish` runs them.

    Args:
        pool: Replicas that are called.
        caller: Takes turns with other callers when calls must wait.
    """

    reads_to_the_end: bool
    """Whether a stream must be read beyond its result, as the server would otherwise count it as cancelled."""

    def __init__(self, pool: ReplicaSet, *, caller: str) -> None:
        self.pool = pool
        self.caller = caller
        self.owns_pool = False
        """Whether closing the client closes the replicas."""
        self.closed = False
        self._pid = os.getpid()
        self._lock = threading.RLock()  # a signal handler may close the client while it is held
        # By home (see `_home`) and replica: generation, channel, stub.
        self._channels: defaultdict[Any, dict[Replica, tuple[int, Any, Any]]] = defaultdict(dict)

    def timeout_s(self, method: str, timeout_s: float | None) -> float:
        """Check what a call is made with. Returns its deadline, seconds.

        Raises:
            ValueError: The timeout is not a number of seconds.
            PoolClosedError: The client is closed, or belongs to another process.
        """
        self.check_open()
        if os.getpid() != self._pid:
            # gRPC's threads do not survive a fork, so the call would hang.
            raise PoolClosedError(
                f"the client of skill {self.pool.spec.name!r} belongs to process {self._pid}; "
                f"this is process {os.getpid()}: ask get_model_pool() for a new one"
            )
        if timeout_s is None:
            config = self.pool.config
            timeout_s = config.health_timeout_s if method == "Health" else config.call_timeout_s
        if not (math.isfinite(timeout_s) and timeout_s >= 0):
            raise ValueError(f"timeout must be a finite number of seconds from 0 on, not {timeout_s!r}")
        return timeout_s

    def check_open(self) -> None:
        """Raise `PoolClosedError` if the client is closed."""
        if self.closed:
            skill = self.pool.spec.name
            raise PoolClosedError(f"the client of skill {skill!r} is closed; get another one from the pool")

    def end_calls(self) -> None:
        """Refuse new calls, and end those that run or wait."""
        self.closed = True
        self.pool.tell(ClientClosed(self))

    def connect(self, replica: Replica) -> tuple[Any, Any]:
        """Return a channel to a replica and the skill's stub for it, made at the first use and after it was dead."""
        with self._lock:
            channels = self._channels[self._home()]
            generation, channel, stub = channels.get(replica, (-1, None, None))
            if generation != replica.generation:
                self.check_open()
                channel = self._open(replica.target)
                stub = self.pool.spec.stub(channel)
                channels[replica] = (replica.generation, channel, stub)
            return channel, stub

    def take_idle_channels(self, *, every: bool = False) -> list[Any]:
        """Remove the channels to replicas that are gone, or every channel of this home; return them to be closed."""
        with self._lock:
            channels = self._channels[self._home()]
            idle = [replica for replica in channels if every or (replica.leaving and not replica.attempts)]
            return [channels.pop(replica)[1] for replica in idle]

    def _home(self) -> Any:
        """Return the home of this caller's channels: an event loop, or None for threads."""
        return None

    @abstractmethod
    def _open(self, target: str) -> Any:
        """Open a channel."""

    @abstractmethod
    def caller_here(self) -> Caller:
        """Return the caller that runs this."""

    @abstractmethod
    async def ready(self, backend: Backend, timeout_s: float) -> None:
        """Start the backend's local process if necessary, and close channels to replicas that are gone."""

    @abstractmethod
    def begin(self, attempt: Attempt, request: Any, timeout_s: float, metadata: Metadata | None) -> Any:
        """Send a request to the attempt's replica, set its `cancel` and `probe`, and return gRPC's call."""

    @abstractmethod
    async def read(self, rpc: Any, *, single: bool) -> Any:
        """Return the next message of a stream, `END` after the last one; or the only message of a unary call.

        Raises:
            grpc.RpcError: It failed, or was cancelled.
        """

    @abstractmethod
    def leave_to_end(self, rpc: Any) -> None:
        """Let a stream whose result has arrived end by itself."""
