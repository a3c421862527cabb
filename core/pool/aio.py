"""The async client: the same interface over grpc.aio. Attempts of a call are shared code (core.pool.answer)."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, overload

from core.errors import CallCancelledError
from core.pool.answer import ANSWERS, Answer
from core.pool.face import ClientFace, StreamFace
from core.pool.structured import shape_of
from core.pool.watcher import CHECK_TIMEOUT_S
from core.pool.wire import END, Caller, Metadata, Wire
from core.rpc import grpc, open_aio_channel, open_channel

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from core.pool.backend import Backend
    from core.pool.records import Attempt
    from core.pool.replica_set import ReplicaSet
    from skills import skills_pb2

_T = TypeVar("_T")
_Chunk = TypeVar("_Chunk")


class AsyncSkillClient(ClientFace):
    """Calls a skill from any event loop. The methods, arguments and errors are those of `core.pool.client.SkillClient`.

    A stream must be read in the event loop in which it was begun.
    """

    _wire: _AioWire

    def __init__(self, replicas: ReplicaSet, *, caller: str = "") -> None:
        self._wire = _AioWire(replicas, caller=caller)

    async def Generate(  # noqa: N802  # the stub's name
        self,
        request: skills_pb2.GenReq,
        timeout: float | None = None,  # noqa: ASYNC109  # the stub's argument, a gRPC deadline
        metadata: Metadata | None = None,
    ) -> skills_pb2.GenResp:
        """Answer a prompt."""
        return await Answer(self._wire, ANSWERS, request, timeout, metadata, whole_only=True).result()

    def GenerateStream(  # noqa: N802  # the stub's name
        self, request: skills_pb2.GenReq, timeout: float | None = None, metadata: Metadata | None = None
    ) -> AsyncAnswerStream[skills_pb2.GenChunk]:
        """Answer a prompt in pieces. Closing the stream cancels the call."""
        return self._stream(ANSWERS, request, timeout, metadata)

    @overload
    async def generate_json(
        self,
        prompt: str | Sequence[skills_pb2.Message],
        schema: type[_T],
        *,
        timeout: float | None = None,  # noqa: ASYNC109  # as above
        metadata: Metadata | None = None,
        **fields: Any,
    ) -> _T: ...

    @overload
    async def generate_json(
        self,
        prompt: str | Sequence[skills_pb2.Message],
        schema: object,
        *,
        timeout: float | None = None,  # noqa: ASYNC109  # as above
        metadata: Metadata | None = None,
        **fields: Any,
    ) -> Any: ...

    async def generate_json(
        self,
        prompt: str | Sequence[skills_pb2.Message],
        schema: object,
        *,
        timeout: float | None = None,  # noqa: ASYNC109  # as above
        metadata: Metadata | None = None,
        **fields: Any,
    ) -> Any:
        """Answer with an object."""
        shape = shape_of(schema)
        request = shape.request(prompt, fields)
        return shape.parse(request, await self.Generate(request, timeout, metadata))

    async def Health(  # noqa: N802  # the stub's name
        self,
        request: skills_pb2.HealthReq | None = None,
        timeout: float | None = None,  # noqa: ASYNC109  # as above
        metadata: Metadata | None = None,
    ) -> skills_pb2.HealthResp:
        """Return the state and the figures of a replica."""
        if request is None:
            from skills import skills_pb2

            request = skills_pb2.HealthReq()
        health: skills_pb2.HealthResp = await self._unary("Health", request, timeout, metadata)
        return health

    async def _unary(
        self,
        method: str,
        request: Any,
        timeout: float | None,  # noqa: ASYNC109  # as above
        metadata: Metadata | None,
    ) -> Any:
        return await Answer(self._wire, method, request, timeout, metadata, single=True).only()

    def _stream(
        self, method: str, request: Any, timeout: float | None, metadata: Metadata | None
    ) -> AsyncAnswerStream[Any]:
        return AsyncAnswerStream(Answer(self._wire, method, request, timeout, metadata))

    async def close(self) -> None:
        """Close the client and cancel its running calls. Idempotent. The replicas keep running."""
        await self._wire.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class AsyncAnswerStream(StreamFace, Generic[_Chunk]):
    """An answer in pieces, as they arrive. The call begins when the first piece is awaited.

    An async context manager; leaving it early cancels the call.

    Args:
        answer: The call.
    """

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer)
        self._loop: asyncio.AbstractEventLoop | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> _Chunk:
        self._loop = self._loop or asyncio.get_running_loop()
        if self._loop is not asyncio.get_running_loop():
            self.close()
            raise CallCancelledError(
                code=grpc.StatusCode.CANCELLED,
                details="it was begun in another event loop: read an answer in a single loop, or call again",
                skill=self._answer.pool.spec.name,
                target=self._answer.pool.target,
            )
        chunk: _Chunk = await self._answer.next()
        if chunk is END:
            raise StopAsyncIteration
        return chunk

    async def aclose(self) -> None:
        """Cancel the call if it is not over, by the name that async generators have for it."""
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()


class _CancelledHereError(grpc.RpcError):
    """An attempt that was cancelled here: gRPC cancels its reader, which must not look like the reader's own task."""

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.CANCELLED

    def details(self) -> str:
        return "it was closed, or its client was"


class _Loop(Caller):
    """An event loop. Nothing is done in a closed one, as no task waits there."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._woken = asyncio.Event()

    def wake(self) -> None:
        _call_soon(self._loop, self._woken.set)

    async def wait(self) -> None:
        await self._woken.wait()
        self._woken.clear()

    def aside(self, coroutine: Coroutine[Any, Any, None]) -> None:
        _run_soon(self._loop, coroutine)


def _call_soon(loop: asyncio.AbstractEventLoop, call: Callable[[], object]) -> bool:
    """Schedule a call in a loop, from any thread; return whether it will run."""
    try:
        loop.call_soon_threadsafe(call)
    except RuntimeError:
        return False
    return True


def _run_soon(loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, None]) -> None:
    """Schedule a coroutine in a loop, from any thread."""

    def start() -> None:
        _running.add(task := loop.create_task(coroutine))
        task.add_done_callback(_running.discard)

    if not _call_soon(loop, start):
        coroutine.close()


_running: set[asyncio.Task[None]] = set()
"""Strong references: a loop holds its tasks only weakly."""


class _AioWire(Wire):
    reads_to_the_end = True

    def caller_here(self) -> Caller:
        return _Loop(asyncio.get_running_loop())

    async def ready(self, backend: Backend, timeout_s: float) -> None:
        if not backend.is_ready():
            await asyncio.to_thread(backend.ready, timeout_s)
        for channel in self.take_idle_channels():
            await channel.close()

    def begin(self, attempt: Attempt, request: Any, timeout_s: float, metadata: Metadata | None) -> Any:
        channel, stub = self.connect(attempt.replica)
        method = getattr(stub, attempt.call.method)
        try:
            rpc = method(request, timeout=timeout_s, metadata=metadata)
        except grpc.aio.UsageError:
            self.check_open()  # another task may have just closed it
            raise
        loop = asyncio.get_running_loop()
        attempt.cancel = partial(_call_soon, loop, rpc.cancel)
        attempt.probe = partial(self._is_silent, channel, loop)
        return rpc

    async def read(self, rpc: Any, *, single: bool) -> Any:
        try:
            message = await (rpc if single else rpc.read())
        except asyncio.CancelledError:
            # gRPC does not distinguish a cancelled attempt from the cancellation of the caller's task.
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            raise _CancelledHereError from None
        return END if message is grpc.aio.EOF else message

    def leave_to_end(self, rpc: Any) -> None:
        """Do nothing: the event loop may be about to end."""

    async def close(self) -> None:
        self.end_calls()
        for channel in self.take_idle_channels(every=True):
            await channel.close()
        with self._lock:
            elsewhere, self._channels = self._channels, defaultdict(dict)
        for loop, channels in elsewhere.items():
            for _, channel, _ in channels.values():
                if loop is None:
                    channel.close()
                else:
                    _run_soon(loop, channel.close())

    def _is_silent(self, channel: grpc.aio.Channel, loop: asyncio.AbstractEventLoop) -> bool:
        """Return whether the server of a channel leaves a health check without an answer. For any other thread."""
        from grpc_health.v1.health_pb2 import HealthCheckRequest
        from grpc_health.v1.health_pb2_grpc import HealthStub

        async def ask() -> bool:
            request = HealthCheckRequest(service=self.pool.spec.health_service)
            try:
                await HealthStub(channel).Check(request, timeout=CHECK_TIMEOUT_S, wait_for_ready=True)
            except grpc.RpcError as error:
                return bool(error.code() is grpc.StatusCode.DEADLINE_EXCEEDED)
            except grpc.aio.UsageError:  # the channel is closed
                return False
            return False

        asking = ask()
        try:
            return asyncio.run_coroutine_threadsafe(asking, loop).result(2 * CHECK_TIMEOUT_S)
        except (RuntimeError, TimeoutError):  # the loop is closed or busy, which tells nothing about the replica
            asking.close()
            return False

    def _home(self) -> asyncio.AbstractEventLoop | None:
        """Return the running event loop, the only one in which its channels work; None outside of any loop."""
        try:
            return asyncio.get_running_loop()
        except RuntimeError:
            return None

    def _open(self, target: str) -> grpc.aio.Channel | grpc.Channel:
        for loop in [loop for loop in self._channels if loop is not None and loop.is_closed()]:
            del self._channels[loop]
        # Outside of a loop, only the stub's methods are inspected.
        return open_channel(target) if self._home() is None else open_aio_channel(target)
