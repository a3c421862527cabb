"""The client of a skill: the stub's methods, answered by any replica, with errors that include the remedy."""

from __future__ import annotations

import threading
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, overload

from core.pool.answer import ANSWERS, Answer
from core.pool.face import ClientFace, StreamFace
from core.pool.replica_set import ReplicaSet
from core.pool.structured import shape_of
from core.pool.watcher import CHECK_TIMEOUT_S
from core.pool.wire import END, Caller, Metadata, Wire
from core.rpc import grpc, open_channel
from core.rpc.faults import HeldInterrupts, cancel_and_tell, tell_lost_end
from core.rpc.health import is_silent

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

    from core.config import PoolConfig
    from core.pool.backend import Backend
    from core.pool.records import Attempt
    from core.skill import SkillSpec
    from skills import skills_pb2

_T = TypeVar("_T")
_Chunk = TypeVar("_Chunk")


class SkillClient(ClientFace):
    """Calls a skill. Thread-safe. Has all methods of the skill's stub; those of SkillsService are spelt out.

    Every method takes the request, `timeout` in seconds for the call with all its attempts, and `metadata`. A call goes
    to another replica, or waits for one, when its own fails; an answer that has begun continues where it was.

    Raises (every method):
        CallError: The call failed. Also a `grpc.RpcError`.
        SkillStartError: The skill's local process had ended and could not be restarted. Also a `grpc.RpcError`.
        PoolClosedError: The client is closed.
        ValueError: The timeout is not a finite number of seconds from 0 on.

    Args:
        replicas: Replicas of the skill.
        caller: Takes turns with other callers when calls must wait for a replica.
    """

    _wire: _SyncWire

    def __init__(self, replicas: ReplicaSet, *, caller: str = "") -> None:
        self._wire = _SyncWire(replicas, caller=caller)

    @classmethod
    def at(cls, spec: SkillSpec, target: str, config: PoolConfig | None = None) -> Self:
        """Return a client for one address, without a pool."""
        from core.config import PoolConfig
        from core.pool.backend import AddressReplica

        config = PoolConfig.from_env() if config is None else config
        client = cls(ReplicaSet(spec, config, [AddressReplica(target, "address")]))
        client._wire.owns_pool = True
        return client

    def Generate(  # noqa: N802  # the stub's name
        self, request: skills_pb2.GenReq, timeout: float | None = None, metadata: Metadata | None = None
    ) -> skills_pb2.GenResp:
        """Answer a prompt.

        The answer is read as a stream, so that it continues at another replica if its own dies.
        """
        return finish(Answer(self._wire, ANSWERS, request, timeout, metadata, whole_only=True).result())

    def GenerateStream(  # noqa: N802  # the stub's name
        self, request: skills_pb2.GenReq, timeout: float | None = None, metadata: Metadata | None = None
    ) -> AnswerStream[skills_pb2.GenChunk]:
        """Answer a prompt in pieces. Closing the stream cancels the call."""
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
        """Answer with an object.

        The answer is constrained to the schema, parsed, and validated if a type is given.

            person = draft.generate_json("Ana is 31 years old.", Person, temperature=0)

        Args:
            prompt: What to answer, or the turns of a conversation. The model sees nothing else, not even the schema.
            schema: A type that Pydantic has a JSON schema for (a model, a dataclass, a TypedDict, `list[…]`), for which
                Pydantic must be installed; or a JSON schema, as a dictionary or as text.
            timeout: As for every method, seconds.
            metadata: As for every method.
            fields: Other fields of GenReq: max_tokens, temperature, seed, system, close_json and so on.

        Returns:
            An object of that type; for a JSON schema, what `json.loads` returns for the answer.

        Raises:
            CutAnswerError: The answer was cut off.
            InvalidAnswerError: The type requires more than a schema can express, and the answer does not satisfy it.
            ConfigError: The schema is not a schema.
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
        """Return the state and the figures of a replica."""
        if request is None:
            from skills import skills_pb2

            request = skills_pb2.HealthReq()
        health: skills_pb2.HealthResp = self._unary("Health", request, timeout, metadata)
        return health

    def _unary(self, method: str, request: Any, timeout: float | None, metadata: Metadata | None) -> Any:
        return finish(Answer(self._wire, method, request, timeout, metadata, single=True).only())

    def _stream(self, method: str, request: Any, timeout: float | None, metadata: Metadata | None) -> AnswerStream[Any]:
        return AnswerStream(Answer(self._wire, method, request, timeout, metadata))

    def close(self) -> None:
        """Close the client and cancel its running calls. Idempotent. The replicas keep running."""
        self._wire.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AnswerStream(StreamFace, Generic[_Chunk]):
    """An answer in pieces, as they arrive: iterate over it once. A context manager; leaving it early cancels the call.

    Args:
        answer: The call, which is sent here.
    """

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer)
        finish(answer.open())

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> _Chunk:
        chunk: _Chunk = finish(self._answer.next())
        if chunk is END:
            raise StopIteration
        return chunk

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def finish(coroutine: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine that never suspends, as with `_SyncWire`, and return its result."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        result: _T = done.value
        return result
    raise AssertionError("it has suspended, and there is no event loop")


class _Thread(Caller):
    def __init__(self) -> None:
        self._woken = threading.Event()

    def wake(self) -> None:
        self._woken.set()

    async def wait(self) -> None:
        self._woken.wait()
        self._woken.clear()

    def aside(self, coroutine: Coroutine[Any, Any, None]) -> None:
        threading.Thread(target=finish, args=(coroutine,), name="sarai-hedge", daemon=True).start()


class _SyncWire(Wire):
    reads_to_the_end = False

    def caller_here(self) -> Caller:
        return _Thread()

    async def ready(self, backend: Backend, timeout_s: float) -> None:
        backend.ready(timeout_s)
        for channel in self.take_idle_channels():
            channel.close()

    def begin(self, attempt: Attempt, request: Any, timeout_s: float, metadata: Metadata | None) -> Any:
        channel, stub = self.connect(attempt.replica)
        method = getattr(stub, attempt.call.method)
        single = isinstance(method, grpc.UnaryUnaryMultiCallable)
        begin: Any = method.future if single else method
        try:
            with HeldInterrupts():
                rpc = begin(request, timeout=timeout_s, metadata=metadata)
        except ValueError:
            self.check_open()  # another thread may have just closed it
            raise
        attempt.cancel = rpc.cancel
        if not single:
            attempt.cancel, attempt.prod = partial(cancel_and_tell, rpc), partial(tell_lost_end, rpc)
        service = self.pool.spec.health_service
        attempt.probe = partial(is_silent, channel, service, timeout_s=CHECK_TIMEOUT_S)
        return rpc

    async def read(self, rpc: Any, *, single: bool) -> Any:
        if not single:
            return next(rpc, END)
        try:
            return rpc.result()
        except grpc.FutureCancelledError:
            raise rpc from None

    def leave_to_end(self, rpc: Any) -> None:
        # Referenced until then, as gRPC cancels a dropped stream, which the server counts.
        rpc.add_done_callback(_nothing)

    def close(self) -> None:
        self.end_calls()
        for channel in self.take_idle_channels(every=True):
            channel.close()
        if self.owns_pool:
            self.pool.close()

    def _open(self, target: str) -> grpc.Channel:
        return open_channel(target)


def _nothing(_: object) -> None: ...
