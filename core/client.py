"""The client of a skill: the plain stub's methods, with deadlines, retries and errors that say what to do."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from core.calls import Attempts, CallRules, ClientFace, Metadata
from core.channels import open_channel
from core.interrupts import HeldInterrupts
from core.quiet_grpc import grpc

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from core.backends import Replica
    from core.config import PoolConfig
    from core.skill import SkillSpec
    from skills import skills_pb2

_Chunk = TypeVar("_Chunk")


class SkillClient(ClientFace):
    """Calls a skill. Thread-safe. Has all methods of the skill's stub; those of SkillsService are spelt out.

    Every method takes the request, `timeout` in seconds for the call with all its attempts, and `metadata`.

    Raises (every method):
        CallError: the call failed. It is also a `grpc.RpcError`.
        SkillStartError: the skill's local process had ended and did not come up again. Also a `grpc.RpcError`.
        PoolClosedError: the client was closed.
        ValueError: the timeout is not a finite number of seconds from 0 on.
    """

    def __init__(self, spec: SkillSpec, replica: Replica, config: PoolConfig) -> None:
        super().__init__(spec, replica, config, open_channel(replica.target))
        self._closing = threading.Event()

    def Generate(  # noqa: N802  # the stub's name
        self, request: skills_pb2.GenReq, timeout: float | None = None, metadata: Metadata | None = None
    ) -> skills_pb2.GenResp:
        """Answers a prompt."""
        answer: skills_pb2.GenResp = self._unary("Generate", request, timeout, metadata)
        return answer

    def GenerateStream(  # noqa: N802  # the stub's name
        self, request: skills_pb2.GenReq, timeout: float | None = None, metadata: Metadata | None = None
    ) -> AnswerStream[skills_pb2.GenChunk]:
        """The same answer in pieces. Closing the stream cancels the call."""
        return self._stream("GenerateStream", request, timeout, metadata)

    def Health(  # noqa: N802  # the stub's name
        self,
        request: skills_pb2.HealthReq | None = None,
        timeout: float | None = None,
        metadata: Metadata | None = None,
    ) -> skills_pb2.HealthResp:
        """What the replica does and how it is."""
        if request is None:
            from skills import skills_pb2

            request = skills_pb2.HealthReq()
        health: skills_pb2.HealthResp = self._unary("Health", request, timeout, metadata)
        return health

    def _unary(self, method: str, request: Any, timeout: float | None, metadata: Metadata | None) -> Any:
        attempts = self._rules.begin(method, timeout)
        while True:
            self._rules.replica.ready(attempts.remaining_s())
            try:
                answer = getattr(self._stub, method)(request, timeout=attempts.remaining_s(), metadata=metadata)
            except grpc.RpcError as error:
                self._closing.wait(self._rules.backoff_s(error, attempts))
            else:
                self._rules.answered()
                return answer

    def _stream(self, method: str, request: Any, timeout: float | None, metadata: Metadata | None) -> AnswerStream[Any]:
        attempts = self._rules.begin(method, timeout)

        def begin() -> Any:
            self._rules.replica.ready(attempts.remaining_s())
            with HeldInterrupts():
                return getattr(self._stub, method)(request, timeout=attempts.remaining_s(), metadata=metadata)

        return AnswerStream(begin, self._rules, attempts)

    def close(self) -> None:
        """Ends the client and cancels its running calls. Again does nothing. The replica goes on."""
        self._rules.closed = True
        self._closing.set()
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AnswerStream(Generic[_Chunk]):
    """An answer in pieces, as it comes: iterate over it once. A context manager; leaving it early cancels the call.

    Args:
        begin: starts the call at the replica.
        rules: what all calls of the client share.
        attempts: this call's deadline.
    """

    def __init__(self, begin: Callable[[], Any], rules: CallRules, attempts: Attempts) -> None:
        self._begin = begin
        self._rules = rules
        self._attempts = attempts
        self._closed = threading.Event()
        self._call = begin()

    def __iter__(self) -> Iterator[_Chunk]:
        return self

    def __next__(self) -> _Chunk:
        while not self._closed.is_set():
            try:
                chunk: _Chunk = next(self._call)
            except StopIteration:
                self._closed.set()
            except grpc.RpcError as error:
                self._go_on(error)
            else:
                if not self._attempts.received:
                    self._attempts.received = True
                    self._rules.answered()
                return chunk
        raise StopIteration

    def _go_on(self, error: grpc.RpcError) -> None:
        """Starts the call again, if nothing has come yet; else this is where another replica will continue it.

        Raises:
            CallError: the answer ends here.
        """
        try:
            if not self._closed.wait(self._rules.backoff_s(error, self._attempts)):
                self._call = self._begin()
        except BaseException:
            self._closed.set()
            raise

    def close(self) -> None:
        """Cancels the call if it is not over. Again does nothing. May be called from another thread."""
        self._closed.set()
        self._call.cancel()

    cancel = close

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
