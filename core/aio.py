"""The async twin of the client: the same words over grpc.aio. What decides is shared (core.calls, core.replicas)."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, overload

from core.calls import ANSWERS, LOOK_AGAIN_S, Call, CallPath, ClientFace, Metadata, result_of
from core.channels import open_aio_channel, open_channel
from core.errors import CallError, PoolClosedError
from core.quiet_grpc import grpc
from core.replicas.lease import Takeover
from core.replicas.refusals import left_behind
from core.replicas.watcher import CHECK_TIMEOUT_S
from core.structured import shape_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from core.replicas import Lease, ReplicaSet
    from skills import skills_pb2

_T = TypeVar("_T")
_Chunk = TypeVar("_Chunk")


class AsyncSkillClient(ClientFace):
    """Calls a skill from any event loop. The methods, arguments and errors are those of `core.client.SkillClient`.

    A stream is read in the event loop that it was begun in.
    """

    _path: _AsyncPath

    def __init__(self, replicas: ReplicaSet, *, caller: str = "") -> None:
        self._path = _AsyncPath(replicas, caller=caller)

    async def Generate(  # noqa: N802  # the stub's name
        self,
        request: skills_pb2.GenReq,
        timeout: float | None = None,  # noqa: ASYNC109  # the stub's argument, a gRPC deadline
        metadata: Metadata | None = None,
    ) -> skills_pb2.GenResp:
        """Answers a prompt."""
        result, path = None, self._path
        call = path.begin(ANSWERS, request, timeout, unseen=True)
        async with AsyncAnswerStream[Any](path, call, path.for_the_whole(metadata)) as stream:
            async for chunk in stream:  # to its end: the server would count a call that is left as cancelled
                result = result_of(chunk)
        if result is None:
            raise AssertionError("a stream without a result ends with an error")
        return result

    def GenerateStream(  # noqa: N802  # the stub's name
        self, request: skills_pb2.GenReq, timeout: float | None = None, metadata: Metadata | None = None
    ) -> AsyncAnswerStream[skills_pb2.GenChunk]:
        """The same answer in pieces. Closing the stream cancels the call."""
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
        """Answers with an object."""
        shape = shape_of(schema)
        request = shape.request(prompt, fields)
        return shape.parse(request, await self.Generate(request, timeout, metadata))

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

    async def _unary(
        self,
        method: str,
        request: Any,
        timeout: float | None,  # noqa: ASYNC109  # as above
        metadata: Metadata | None,
    ) -> Any:
        path = self._path
        call = path.begin(method, request, timeout)
        while True:
            lease = await path.lease(call)
            try:
                rpc = await path.begin_at(lease, call.next_request(), metadata)
                lease.sent(path.canceller(rpc), path.silence_check(lease))
                answer = await rpc
            except grpc.RpcError as error:
                path.attempt_failed(lease, error)
            except asyncio.CancelledError:
                if not path.was_cancelled(lease):
                    raise
                path.attempt_failed(lease, _CancelledHereError())
            else:
                path.replicas.heard(lease)
                path.replicas.succeeded(lease)
                return answer
            finally:
                path.replicas.release(lease)

    def _stream(
        self, method: str, request: Any, timeout: float | None, metadata: Metadata | None
    ) -> AsyncAnswerStream[Any]:
        return AsyncAnswerStream(self._path, self._path.begin(method, request, timeout), metadata)

    async def close(self) -> None:
        """Ends the client and cancels its running calls. Again does nothing. The replicas go on."""
        await self._path.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class _CancelledHereError(grpc.RpcError):
    """An attempt that was ended from here: for a reason that the lease knows, or as stream or client was closed."""

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.CANCELLED

    def details(self) -> str:
        return "it was closed, or its client was"


def _task_is_cancelled() -> bool:
    """Whether it is the caller's task that was cancelled, and not only the call."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


class _AsyncPath(CallPath):
    def __init__(self, replicas: ReplicaSet, *, caller: str) -> None:
        super().__init__(replicas, caller=caller)
        self._races: set[asyncio.Task[None]] = set()

    async def lease(self, call: Call) -> Lease:
        """A replica for the next attempt; waits for one."""
        loop, woken = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            with contextlib.suppress(RuntimeError):  # its loop is closed: nobody waits
                loop.call_soon_threadsafe(woken.set)

        ticket = self.replicas.enter(call, wake)
        try:
            self.check_open()
            while wait_s := self.replicas.poll(ticket):
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(woken.wait(), min(wait_s, LOOK_AGAIN_S))
                woken.clear()
                self.check_open()
        except BaseException:
            self.replicas.leave(ticket)
            raise
        assert ticket.lease is not None
        return ticket.lease

    def was_cancelled(self, lease: Lease) -> bool:
        """Whether a CancelledError is of the attempt alone. For gRPC it is the same, but the caller's task goes on."""
        return bool(lease.broken_off or lease.call.given_up or self.closed) and not _task_is_cancelled()

    async def ready_stub(self, lease: Lease) -> Any:
        """The stub of a replica, which is started first where that is ours to do."""
        replica = lease.member.replica
        if not replica.is_ready():
            await asyncio.to_thread(replica.ready, lease.call.remaining_s())
        for channel in self.take_idle_channels():
            await channel.close()
        return self.stub_of(lease.member)

    def canceller(self, rpc: Any) -> Any:
        """Cancels a call from any thread."""
        loop = asyncio.get_running_loop()

        def cancel() -> None:
            with contextlib.suppress(RuntimeError):  # as above
                loop.call_soon_threadsafe(rpc.cancel)

        return cancel

    def silence_check(self, lease: Lease) -> Callable[[], bool]:
        """Asks a replica's health over the connection that a call has, from any thread."""
        from grpc_health.v1.health_pb2 import HealthCheckRequest
        from grpc_health.v1.health_pb2_grpc import HealthStub

        loop, channel = asyncio.get_running_loop(), self.channel_to(lease.member)
        request = HealthCheckRequest(service=self.replicas.spec.health_service)

        async def ask() -> bool:
            try:
                await HealthStub(channel).Check(request, timeout=CHECK_TIMEOUT_S, wait_for_ready=True)
            except grpc.RpcError as error:
                return bool(error.code() is grpc.StatusCode.DEADLINE_EXCEEDED)
            except grpc.aio.UsageError:  # the channel is closed
                return False
            return False

        def is_silent() -> bool:
            asking = ask()
            try:
                return asyncio.run_coroutine_threadsafe(asking, loop).result(2 * CHECK_TIMEOUT_S)
            except (RuntimeError, TimeoutError):  # the loop is closed or busy: that says nothing of the replica
                asking.close()
                return False

        return is_silent

    async def send(self, lease: Lease, metadata: Metadata | None) -> Any:
        """Begins a stream at a replica."""
        call = lease.call
        rpc = await self.begin_at(lease, call.next_request(), metadata)
        ask_rival = partial(self._ask_rival, asyncio.get_running_loop(), lease, metadata)
        lease.sent(self.canceller(rpc), self.silence_check(lease), ask_rival if call.answer is not None else None)
        return rpc

    async def begin_at(self, lease: Lease, request: Any, metadata: Metadata | None) -> Any:
        """Sends a request to a replica, and does not wait for its answer."""
        method = getattr(await self.ready_stub(lease), lease.call.method)
        try:
            return method(request, timeout=lease.call.remaining_s(), metadata=metadata)
        except grpc.aio.UsageError:
            self.check_open()  # another task has closed it just now
            raise

    def _ask_rival(
        self, loop: asyncio.AbstractEventLoop, lease: Lease, metadata: Metadata | None, rival: Lease
    ) -> None:
        request = lease.call.next_request()

        def start() -> None:
            if rival.broken_off:  # it was settled before this had its turn
                return
            task = loop.create_task(self._race(lease, rival, request, metadata))
            self._races.add(task)  # the loop itself holds it only weakly
            task.add_done_callback(self._races.discard)

        with contextlib.suppress(RuntimeError):  # as above; whoever settles the race gives the lease back
            loop.call_soon_threadsafe(start)

    async def _race(self, lease: Lease, rival: Lease, request: Any, metadata: Metadata | None) -> None:
        """Asks another replica as well. Of its answer the first piece is read here, the rest by whoever calls."""
        rpc, won = None, False
        try:
            rpc = await self.begin_at(rival, request, metadata)
            rival.sent(self.canceller(rpc), self.silence_check(rival))
            while lease.call.is_progress(piece := await rpc.read()):
                pass
            won = piece is not grpc.aio.EOF and lease.give_way(Takeover(rival, rpc, piece))
        except grpc.RpcError as error:
            self.rival_failed(rival, error)
        except (asyncio.CancelledError, PoolClosedError):  # the first one was faster, or the client is closed
            pass
        finally:
            if not won:
                if rpc is not None:
                    rpc.cancel()
                self.replicas.release(rival)

    async def close(self) -> None:
        self.closed = True
        self.replicas.abandon_all(self)
        for channel in self.take_idle_channels(every=True):
            await channel.close()
        with self._lock:
            elsewhere, self._channels = self._channels, defaultdict(dict)
        for loop, channels in elsewhere.items():
            for _, channel, _ in channels.values():
                if loop is None:
                    channel.close()
                    continue
                with contextlib.suppress(RuntimeError):  # as above
                    loop.call_soon_threadsafe(_close_soon, loop, channel)

    def _home(self) -> asyncio.AbstractEventLoop | None:
        """The running event loop: a channel of grpc.aio works in no other one. None outside of any."""
        try:
            return asyncio.get_running_loop()
        except RuntimeError:
            return None

    def _open(self, target: str) -> grpc.aio.Channel | grpc.Channel:
        for loop in [loop for loop in self._channels if loop is not None and loop.is_closed()]:
            del self._channels[loop]
        # Outside of any loop only the methods of the stub are looked at.
        return open_channel(target) if self._home() is None else open_aio_channel(target)


def _close_soon(loop: asyncio.AbstractEventLoop, channel: grpc.aio.Channel) -> None:
    _closing.add(task := loop.create_task(channel.close()))  # the loop itself holds it only weakly
    task.add_done_callback(_closing.discard)


_closing: set[asyncio.Task[None]] = set()


class AsyncAnswerStream(Generic[_Chunk]):
    """An answer in pieces, as it comes. The call begins with the first piece that is asked for.

    An async context manager; leaving it early cancels the call.

    Args:
        path: the way to the replicas.
        call: the call, with its deadline.
        metadata: goes with every attempt.
    """

    def __init__(self, path: _AsyncPath, call: Call, metadata: Metadata | None) -> None:
        self._path = path
        self._call = call
        self._metadata = metadata
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lease: Lease | None = None
        self._rpc: Any = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> _Chunk:
        try:
            return await self._next()
        except CallError as error:
            last: _Chunk = self._call.ended_by(error)
            return last

    async def _next(self) -> _Chunk:
        while not self._closed:
            try:
                chunk = await self._read()
            except grpc.RpcError as error:
                if self._call.is_whole:  # only how the stream ends is lost
                    self.close()
                    break
                self._failed(error)
            except asyncio.CancelledError:
                if self._lease is None or not self._path.was_cancelled(self._lease):
                    self.close()
                    raise
                self._failed(_CancelledHereError())
            except BaseException:
                self.close()
                raise
            else:
                if chunk is None:
                    break
                piece: _Chunk = chunk
                return piece
        raise StopAsyncIteration

    async def _read(self) -> Any:
        """The next piece, None at the end."""
        call, path = self._call, self._path
        self._loop = self._loop or asyncio.get_running_loop()
        if self._loop is not asyncio.get_running_loop():
            raise left_behind(path.replicas)
        if self._rpc is None:
            lease = self._lease = await path.lease(call)
            self._rpc = await path.send(lease, self._metadata)
            if self._closed:  # by another task, while this was going over to another replica
                self.close()
        chunk = await self._whoever_is_first()
        assert self._lease is not None
        if chunk is grpc.aio.EOF:
            try:
                path.conclude(self._lease)
            finally:
                self.close()
            return None
        if not call.is_progress(chunk):
            path.replicas.heard(self._lease, call.take(chunk))
        return chunk

    async def _whoever_is_first(self) -> Any:
        """What comes next, of the replica that is asked or of one that was asked as well and is faster."""
        try:
            chunk = await self._rpc.read()
        except (grpc.RpcError, asyncio.CancelledError) as error:
            chunk = self._change_over()
            if chunk is None or (isinstance(error, asyncio.CancelledError) and _task_is_cancelled()):
                raise
            return chunk
        return chunk if self._call.is_progress(chunk) else self._change_over() or chunk

    def _change_over(self) -> Any:
        """Goes on with the replica that was faster, and gives its first piece; None where none was."""
        lease = self._lease
        if lease is None or lease.settled or (first := self._path.replicas.settle(lease)) is None:
            return None
        self._lease, self._rpc, piece = first
        return piece

    def _failed(self, error: grpc.RpcError) -> None:
        """Returns where the answer goes on at the next replica.

        Raises:
            CallError: it ends here.
        """
        if self._lease is None:  # there was no replica to begin with
            self.close()
            raise error
        try:
            self._path.attempt_failed(self._lease, error)
        except BaseException:
            self.close()
            raise
        self._rpc = None

    def close(self) -> None:
        """Cancels the call if it is not over. Again does nothing."""
        self._closed = True
        self._call.give_up()
        if self._rpc is not None:
            self._rpc.cancel()
        if self._lease is not None:
            self._path.replicas.abandon(self._lease)

    cancel = close

    async def aclose(self) -> None:
        """The same, as async generators name it."""
        self.close()

    def __del__(self) -> None:
        if not self._closed and self._lease is not None:
            self._lease.break_off("its caller has left")  # the loop may be another thread's, or closed
            self._path.replicas.forget(self._lease)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()
