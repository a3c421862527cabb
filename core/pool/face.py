"""What the sync and the async client share: their identity, and the other methods of the stub by name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from core.pool.answer import Answer
from core.pool.wire import Metadata, Wire
from core.rpc import grpc

if TYPE_CHECKING:
    from core.pool.backend import Origin
    from core.pool.replica_set import ReplicaSet
    from core.pool.status import CallStats


class ClientFace(ABC):
    """Base of the sync and the async client."""

    _wire: Wire

    @property
    def skill(self) -> str:
        """The skill's name."""
        return self._wire.pool.spec.name

    @property
    def target(self) -> str:
        """The address of the replica; of several replicas all addresses, comma-separated."""
        return self._wire.pool.target

    @property
    def origin(self) -> Origin:
        """The source of the address: `address` (configured), `running`, `container` (found) or `embedded`."""
        return self._wire.pool.origin

    @property
    def closed(self) -> bool:
        """Whether the client is closed."""
        return self._wire.closed

    def stats(self) -> CallStats:
        """Return the counts of calls and attempts of this skill, by all clients of the pool."""
        return self._wire.pool.stats

    def calls(self, pool: ReplicaSet) -> bool:
        """Return whether the client calls these replicas."""
        return self._wire.pool is pool

    def __getattr__(self, method: str) -> Callable[..., Any]:
        """Return another method of the skill's stub that takes one request."""
        if not method.startswith("_"):
            _, stub = self._wire.connect(self._wire.pool.replicas[0])
            stub_method = getattr(stub, method, None)
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


class StreamFace:
    """Base of the sync and the async stream.

    Args:
        answer: The call.
    """

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    def close(self) -> None:
        """Cancel the call if it is not over. Idempotent. May be called from another thread."""
        self._answer.release()

    cancel = close

    def __del__(self) -> None:
        answer: Answer | None = getattr(self, "_answer", None)  # missing if Ctrl-C came before it was set
        if answer is not None and not answer.closed:
            answer.forget()


def _with_positions(
    call: Callable[..., Any], method: str, request: Any, timeout: float | None = None, metadata: Metadata | None = None
) -> Any:
    """Call with the arguments of a stub's method, by position or by name."""
    return call(method, request, timeout, metadata)
