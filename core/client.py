"""The client of a skill: the plain stub's methods, answered by whichever replica can; errors that say what to do."""

from __future__ import annotations

import threading
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, overload

from core.calls import ANSWERS, LOOK_AGAIN_S, Call, CallPath, ClientFace, Metadata, result_of
from core.channels import open_channel
from core.errors import CallError, PoolClosedError
from core.interrupts import HeldInterrupts
from core.lost_ends import tell_lost_end
from core.quiet_grpc import grpc
from core.replicas import ReplicaSet
from core.replicas.lease import Takeover
from core.replicas.watcher import CHECK_TIMEOUT_S
from core.rpc_status import call_error
from core.structured import shape_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from core.config import PoolConfig
    from core.replicas import Lease
    from core.skill import SkillSpec
    from skills import skills_pb2

_T = TypeVar("_T")
_Chunk = TypeVar("_Chunk")


class SkillClient(ClientFace):
    """Calls a skill. Thread-safe. Has all methods of the skill's stub; those of SkillsService are spelt out.

    Every method takes the request, `timeout` in seconds for the call with all its attempts, and `metadata`. A call goes
    to another replica, or waits for one, when its own fails; an answer that has begun goes on where it was.

    Raises (every method):
        CallError: the call failed. It is also a `grpc.RpcError`.
        SkillStartError: the skill's local process had ended and did not come up again. Also a `grpc.RpcError`.
        PoolClosedError: the client was closed.
        ValueError: the timeout is not a finite number of seconds from 0 on.

    Args:
        replicas: the skill's replicas.
        caller: who takes turns with other callers where calls have to wait for a replica.
    """

    _path: _SyncPath

    def __init__(self, replicas: ReplicaSet, *, caller: str = "") -> None:
        self._path = _SyncPath(replicas, caller=caller)

    @classmethod
    def at(cls, spec: SkillSpec, target: str, config: PoolConfig | None = None) -> Self:
        """A client for one address, without a pool."""
        from core.backends.address import AddressReplica
        from core.config import PoolConfig

        config = PoolConfig.from_env() if config is None else config
        client = cls(ReplicaSet(spec, config, [AddressReplica(target, "address")]))
        client._path.owns_replicas = True
        return client

    def Generate(  # noqa: N802  # the stub's name
        self, request: skills_pb2.GenReq, timeout: float | None = None, metadata: Metadata | None = None
    ) -> skills_pb2.GenResp:
        """Answers a prompt.

        It is read as a stream, so that an answer whose replica dies goes on elsewhere instead of beginning anew.
        """
        path = self._path
        call = path.begin(ANSWERS, request, timeout, unseen=True)
        with AnswerStream[Any](path, call, path.for_the_whole(metadata)) as stream:
            for chunk in stream:
                if (result := result_of(chunk)) is not None:
                    return result
        raise AssertionError("a stream without a result ends with an error")

    def GenerateStream(  # noqa: N802  # the stub's name
        self, request: skills_pb2.GenReq, timeout: float | None = None, metadata: Metadata | None = None
    ) -> AnswerStream[skills_pb2.GenChunk]:
        """The same answer in pieces. Closing the stream cancels the call."""
        return self._stream(ANSWERS, request, timeout, metadata)

    @overload
    def generate_json(
        self,
        prompt: str | Sequence[skills_pb2.Message],
        schema: type[_T],
        *,
        timeout: float | None = None,
        metadata: Metadata | None = None,
        **fields: Any,
    ) -> _T: ...

    @overload
    def generate_json(
        self,
        prompt: str | Sequence[skills_pb2.Message],
        schema: object,
        *,
        timeout: float | None = None,
        metadata: Metadata | None = None,
        **fields: Any,
    ) -> Any: ...

    def generate_json(
        self,
        prompt: str | Sequence[skills_pb2.Message],
        schema: object,
        *,
        timeout: float | None = None,
        metadata: Metadata | None = None,
        **fields: Any,
    ) -> Any:
        """Answers with an object.

        The answer is constrained to the schema, read, and validated where a type is given.

            person = draft.generate_json("Ana is 31 years old.", Person, temperature=0)

        Args:
            prompt: what to answer, or the turns of a conversation. The model sees no more than this: the schema is not
                put into it.
            schema: a type that pydantic has a JSON schema for (a model, a dataclass, a TypedDict, `list[…]`), for which
                pydantic must be installed; or a JSON schema, as a dictionary or as text.
            timeout: as for every method, seconds.
            metadata: as for every method.
            fields: other fields of GenReq: max_tokens, temperature, seed, system, close_json and so on.

        Returns:
            An object of that type; for a JSON schema what `json.loads` makes of the answer.

        Raises:
            CutAnswerError: the answer was ended before it was whole.
            InvalidAnswerError: the type asks for more than a schema can say, and the answer is not that.
            ConfigError: the schema is none.
        """
        shape = shape_of(schema)
        request = shape.request(prompt, fields)
        return shape.parse(request, self.Generate(request, timeout, metadata))

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
        path = self._path
        call = path.begin(method, request, timeout)
        while True:
            lease = path.lease(call)
            rpc: Any = None
            try:
                rpc = path.begin_at(lease, call.next_request(), metadata)
                lease.sent(rpc.cancel, path.silence_check(lease))
                answer = rpc.result()
            except grpc.FutureCancelledError:
                path.attempt_failed(lease, rpc)
            except grpc.RpcError as error:
                path.attempt_failed(lease, error)
            else:
                path.replicas.heard(lease)
                path.replicas.succeeded(lease)
                return answer
            finally:
                if rpc is not None:
                    rpc.cancel()  # does nothing to one that is over
                path.replicas.release(lease)

    def _stream(self, method: str, request: Any, timeout: float | None, metadata: Metadata | None) -> AnswerStream[Any]:
        return AnswerStream(self._path, self._path.begin(method, request, timeout), metadata)

    def close(self) -> None:
        """Ends the client and cancels its running calls. Again does nothing. The replicas go on."""
        self._path.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _SyncPath(CallPath):
    def lease(self, call: Call) -> Lease:
        """A replica for the next attempt; waits for one."""
        woken = threading.Event()
        ticket = self.replicas.enter(call, woken.set)
        try:
            self.check_open()
            while wait_s := self.replicas.poll(ticket):
                woken.wait(min(wait_s, LOOK_AGAIN_S))
                woken.clear()
                self.check_open()
        except BaseException:
            self.replicas.leave(ticket)
            raise
        assert ticket.lease is not None
        return ticket.lease

    def ready_stub(self, lease: Lease) -> Any:
        """The stub of a replica, which is started first where that is ours to do."""
        lease.member.replica.ready(lease.call.remaining_s())
        for channel in self.take_idle_channels():
            channel.close()
        return self.stub_of(lease.member)

    def silence_check(self, lease: Lease) -> Callable[[], bool]:
        """Asks a replica's health over the connection that a call has."""
        from core.backends.health import is_silent

        channel, service = self.channel_to(lease.member), self.replicas.spec.health_service
        return partial(is_silent, channel, service, timeout_s=CHECK_TIMEOUT_S)

    def send(self, lease: Lease, metadata: Metadata | None) -> Any:
        """Begins a stream at a replica."""
        call = lease.call
        rpc = self.begin_at(lease, call.next_request(), metadata)
        ask_rival = partial(self._ask_rival, lease, metadata) if call.answer is not None else None
        lease.sent(rpc.cancel, self.silence_check(lease), ask_rival, partial(tell_lost_end, rpc))
        return rpc

    def begin_at(self, lease: Lease, request: Any, metadata: Metadata | None) -> Any:
        """Sends a request to a replica, and does not wait."""
        method = getattr(self.ready_stub(lease), lease.call.method)
        begin: Any = method.future if isinstance(method, grpc.UnaryUnaryMultiCallable) else method
        try:
            with HeldInterrupts():
                return begin(request, timeout=lease.call.remaining_s(), metadata=metadata)
        except ValueError:
            self.check_open()  # another thread has closed it just now
            raise

    def _ask_rival(self, lease: Lease, metadata: Metadata | None, rival: Lease) -> None:
        run = partial(self._race, lease, rival, lease.call.next_request(), metadata)
        threading.Thread(target=run, name="sarai-hedge", daemon=True).start()

    def _race(self, lease: Lease, rival: Lease, request: Any, metadata: Metadata | None) -> None:
        """Asks another replica as well. Of its answer the first piece is read here, the rest by whoever calls."""
        rpc, won = None, False
        try:
            if rival.broken_off:  # it was settled before this had its turn
                return
            rpc = self.begin_at(rival, request, metadata)
            rival.sent(rpc.cancel, self.silence_check(rival), None, partial(tell_lost_end, rpc))
            piece = next((piece for piece in rpc if not lease.call.is_progress(piece)), None)
            won = piece is not None and lease.give_way(Takeover(rival, rpc, piece))
        except grpc.RpcError as error:
            self.rival_failed(rival, error)
        except PoolClosedError:
            pass
        finally:
            if not won:
                if rpc is not None:
                    rpc.cancel()
                self.replicas.release(rival)

    def close(self) -> None:
        self.closed = True
        self.replicas.abandon_all(self)
        for channel in self.take_idle_channels(every=True):
            channel.close()
        if self.owns_replicas:
            self.replicas.close()

    def _open(self, target: str) -> grpc.Channel:
        return open_channel(target)


def _nothing(_: object) -> None: ...


class AnswerStream(Generic[_Chunk]):
    """An answer in pieces, as it comes: iterate over it once. A context manager; leaving it early cancels the call.

    Args:
        path: the way to the replicas.
        call: the call, with its deadline.
        metadata: goes with every attempt.
    """

    def __init__(self, path: _SyncPath, call: Call, metadata: Metadata | None) -> None:
        self._path = path
        self._call = call
        self._metadata = metadata
        self._closed = threading.Event()
        self._lease: Lease | None = None
        self._rpc: Any = None
        self._open()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> _Chunk:
        try:
            return self._next()
        except CallError as error:
            last: _Chunk = self._call.ended_by(error)
            return last

    def _next(self) -> _Chunk:
        while not self._closed.is_set():
            lease = self._lease
            assert lease is not None
            try:
                chunk: _Chunk = next(self._rpc)
            except StopIteration:
                try:
                    self._path.conclude(lease)
                finally:
                    self.close()
                break
            except grpc.RpcError as error:
                if self._call.is_whole:  # only how the stream ends is lost
                    self.close()
                    break
                if (first := self._path.replicas.settle(lease)) is None:
                    self._go_on(lease, error)
                    continue
                lease, chunk = self._change_over(first)
            else:
                if self._call.is_progress(chunk):
                    return chunk
                if not lease.settled and (first := self._path.replicas.settle(lease)) is not None:
                    lease, chunk = self._change_over(first)
            self._path.replicas.heard(lease, self._call.take(chunk))
            return chunk
        raise StopIteration

    def _change_over(self, first: Takeover) -> tuple[Lease, _Chunk]:
        """Another replica was faster, and has the call now."""
        self._lease, self._rpc, piece = first
        self._end_if_closed()
        return first.lease, piece

    def _open(self) -> None:
        """Begins the call, or goes on with it, at a replica; at another one as long as it may be tried again."""
        call = self._call
        while self._rpc is None:
            lease = self._lease = self._path.lease(call)
            try:
                self._rpc = self._path.send(lease, self._metadata)
            except grpc.RpcError as error:
                self._failed(lease, error)
            except BaseException:
                self.close()
                raise
        self._end_if_closed()

    def _end_if_closed(self) -> None:
        """Another thread closed this while it was going over to another replica, and could not know of that."""
        if self._closed.is_set():
            self.close()

    def _go_on(self, lease: Lease, error: grpc.RpcError) -> None:
        """Another replica goes on with the answer.

        Raises:
            CallError: it ends here.
        """
        if self._closed.is_set():  # by another thread: this is the end that it asked for
            raise call_error(error, skill=self._path.replicas.spec.name, target=lease.member.target) from error
        self._failed(lease, error)
        self._rpc = None
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def _failed(self, lease: Lease, error: grpc.RpcError) -> None:
        try:
            self._path.attempt_failed(lease, error)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Cancels the call if it is not over. Again does nothing. May be called from another thread."""
        self._closed.set()
        self._call.give_up()
        self._end_rpc()
        if self._lease is not None:
            self._path.replicas.abandon(self._lease)

    cancel = close

    def _end_rpc(self) -> None:
        if self._rpc is not None:
            if self._call.is_whole:
                # Its end is on the way. Held until then, as gRPC cancels what is dropped, and the server counts that.
                self._rpc.add_done_callback(_nothing)
            else:
                self._rpc.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if not self._closed.is_set():
            self._end_rpc()
            if self._lease is not None:
                self._path.replicas.forget(self._lease)
