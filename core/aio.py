"""The async twin of the client: the same words over grpc.aio. What decides is shared (`core.calls`)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from core.calls import Attempts, CallRules, ClientFace, Metadata
from core.channels import open_aio_channel
from core.quiet_grpc import grpc

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from core.backends import Replica
    from core.config import PoolConfig
    from core.skill import SkillSpec
    from skills import skills_pb2

_Chunk = TypeVar("_Chunk")


class AsyncSkillClient(ClientFace):
    """Calls a skill from one event loop. The methods, arguments and errors are those of `core.client.SkillClient`."""

    def __init__(self, spec: SkillSpec, replica: Replica, config: PoolConfig) -> None:
        super().__init__(spec, replica, config, open_aio_channel(replica.target))

    async def Generate(  # noqa: N802  # the stub's name
        self,
        request: skills_pb2.GenReq,
        timeout: float | None = None,  # noqa: ASYNC109  # the stub's argument, a gRPC deadline
        metadata: Metadata | None = None,
    ) -> skills_pb2.GenResp:
        """Answers a prompt."""
        answer: skills_pb2.GenResp = await self._unary("Generate", request, timeout, metadata)
        return answer

    def GenerateStream(  # noqa: N802  # the stub's name
        self, request: skills_pb2.GenReq, timeout: float | None = None, metadata: Metadata | None = None
    ) -> AsyncAnswerStream[skills_pb2.GenChunk]:
        """The same answer in pieces. Closing the stream cancels the call."""
        return self._stream("GenerateStream", request, timeout, metadata)

    async def Health(  # noqa: N802  # the stub's name
        self,
        request: skills_pb2.HealthReq | None = None,
        timeout: float | None = None,  # noqa: ASYNC109  # as above
        metadata: Metadata | None = None,
    ) -> skills_pb2.HealthResp:
        """What the replica does and how it is."""
        if request is None:
            from skills import skills_pb2

            request = skills_pb2.HealthReq()
        health: skills_pb2.HealthResp = await self._unary("Health", request, timeout, metadata)
        return health

    async def _ready(self, attempts: Attempts) -> None:
        replica = self._rules.replica
        if not replica.is_ready():
            await asyncio.to_thread(replica.ready, attempts.remaining_s())

    async def _unary(
        self,
        method: str,
        request: Any,
        timeout: float | None,  # noqa: ASYNC109  # as above
        metadata: Metadata | None,
    ) -> Any:
        attempts = self._rules.begin(method, timeout)
        while True:
            await self._ready(attempts)
            try:
                answer = await getattr(self._stub, method)(request, timeout=attempts.remaining_s(), metadata=metadata)
            except grpc.RpcError as error:
                await asyncio.sleep(self._rules.backoff_s(error, attempts))
            else:
                self._rules.answered()
                return answer

    def _stream(
        self, method: str, request: Any, timeout: float | None, metadata: Metadata | None
    ) -> AsyncAnswerStream[Any]:
        attempts = self._rules.begin(method, timeout)

        async def begin() -> Any:
            await self._ready(attempts)
            return getattr(self._stub, method)(request, timeout=attempts.remaining_s(), metadata=metadata)

        return AsyncAnswerStream(begin, self._rules, attempts)

    async def close(self) -> None:
        """Ends the client and cancels its running calls. Again does nothing. The replica goes on."""
        self._rules.closed = True
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class AsyncAnswerStream(Generic[_Chunk]):
    """An answer in pieces, as it comes. The call begins with the first piece that is asked for.

    An async context manager; leaving it early cancels the call.

    Args:
        begin: starts the call at the replica.
        rules: what all calls of the client share.
        attempts: this call's deadline.
    """

    def __init__(self, begin: Callable[[], Awaitable[Any]], rules: CallRules, attempts: Attempts) -> None:
        self._begin = begin
        self._rules = rules
        self._attempts = attempts
        self._closed = False
        self._call: Any = None

    def __aiter__(self) -> AsyncIterator[_Chunk]:
        return self

    async def __anext__(self) -> _Chunk:
        while not self._closed:
            try:
                if self._call is None:
                    self._call = await self._begin()
                chunk = await self._call.read()
            except grpc.RpcError as error:
                await self._go_on(error)
            except BaseException:
                self.close()
                raise
            else:
                if chunk is grpc.aio.EOF:
                    break
                if not self._attempts.received:
                    self._attempts.received = True
                    self._rules.answered()
                piece: _Chunk = chunk
                return piece
        self._closed = True
        raise StopAsyncIteration

    async def _go_on(self, error: grpc.RpcError) -> None:
        """Lets the call start again, if nothing has come yet; else this is where another replica will continue it.

        Raises:
            CallError: the answer ends here.
        """
        self._call = None
        try:
            await asyncio.sleep(self._rules.backoff_s(error, self._attempts))
        except BaseException:
            self._closed = True
            raise

    def close(self) -> None:
        """Cancels the call if it is not over. Again does nothing."""
        self._closed = True
        if self._call is not None:
            self._call.cancel()

    cancel = close

    async def aclose(self) -> None:
        """The same, as async generators name it."""
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()
