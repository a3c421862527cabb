"""The sync and the async client with the same methods, so that one test verifies a promise of both.

@pytest.mark.parametrize("user", BOTH)
def test_promise(user: User) -> None:
    with StubSkill("yes") as skill, replicas(skill.target) as made, user(made) as client:
        assert client.ask(REQUEST).text == "yes"
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractContextManager
from typing import Any, Protocol, Self, TypeVar

import pytest

from core.pool.aio import AsyncAnswerStream, AsyncSkillClient
from core.pool.client import SkillClient
from core.pool.replica_set import ReplicaSet
from skills import skills_pb2

T = TypeVar("T")
TIMEOUT_S = 30.0
STREAM = "GenerateStream"


class Stream(Protocol):
    """An answer in pieces, which is read in one thread and may be closed in any."""

    def __iter__(self) -> Iterator[skills_pb2.GenChunk]: ...

    def __next__(self) -> skills_pb2.GenChunk: ...

    def close(self) -> None:
        """Cancel the call."""


class Client(Protocol):
    """One of the clients, usable from any thread."""

    client: Any

    def ask(self, request: skills_pb2.GenReq, timeout: float | None = TIMEOUT_S, **more: Any) -> skills_pb2.GenResp:
        """Call `Generate`."""

    def begin(self, request: skills_pb2.GenReq, timeout: float | None = TIMEOUT_S, method: str = STREAM) -> Stream:
        """Call `GenerateStream`, or another method like it. The client keeps no reference to the stream."""

    def call(self, method: str, *request: Any, **more: Any) -> Any:
        """Call another method, for example `Health`."""

    def glance(self, request: skills_pb2.GenReq) -> None:
        """Read the first piece of an answer, and leave the loop by `break`."""

    def peek(self, request: skills_pb2.GenReq) -> None:
        """Read the first piece of an answer, and leave the `with` around it."""

    def close(self) -> None:
        """Close the client."""


User = Callable[[ReplicaSet], AbstractContextManager[Client]]


class _Sync:
    def __init__(self, client: SkillClient) -> None:
        self.client = client

    def close(self) -> None:
        self.client.close()

    def ask(self, request: skills_pb2.GenReq, timeout: float | None = TIMEOUT_S, **more: Any) -> skills_pb2.GenResp:
        return self.client.Generate(request, timeout, **more)

    def begin(self, request: skills_pb2.GenReq, timeout: float | None = TIMEOUT_S, method: str = STREAM) -> Stream:
        stream: Stream = getattr(self.client, method)(request, timeout)
        return stream

    def call(self, method: str, *request: Any, **more: Any) -> Any:
        return getattr(self.client, method)(*request, **more)

    def glance(self, request: skills_pb2.GenReq) -> None:
        for _ in self.client.GenerateStream(request, TIMEOUT_S):
            break

    def peek(self, request: skills_pb2.GenReq) -> None:
        with self.client.GenerateStream(request, TIMEOUT_S) as stream:
            next(stream)


class _Loop:
    """An event loop in its own thread."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine; return or raise what it does."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(2 * TIMEOUT_S)


class _AsyncStream:
    def __init__(self, loop: _Loop, stream: AsyncAnswerStream[skills_pb2.GenChunk]) -> None:
        self._loop, self._stream = loop, stream

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> skills_pb2.GenChunk:
        try:
            return self._loop.run(self._stream.__anext__())
        except StopAsyncIteration:
            raise StopIteration from None

    def close(self) -> None:
        self._loop.run(self._stream.aclose())


class _Async:
    def __init__(self, loop: _Loop, client: AsyncSkillClient) -> None:
        self._loop, self.client = loop, client

    def ask(self, request: skills_pb2.GenReq, timeout: float | None = TIMEOUT_S, **more: Any) -> skills_pb2.GenResp:
        return self._loop.run(self.client.Generate(request, timeout, **more))

    def begin(self, request: skills_pb2.GenReq, timeout: float | None = TIMEOUT_S, method: str = STREAM) -> Stream:
        return _AsyncStream(self._loop, getattr(self.client, method)(request, timeout))

    def call(self, method: str, *request: Any, **more: Any) -> Any:
        return self._loop.run(getattr(self.client, method)(*request, **more))

    def glance(self, request: skills_pb2.GenReq) -> None:
        async def first() -> None:
            async for _ in self.client.GenerateStream(request, TIMEOUT_S):
                break

        self._loop.run(first())

    def peek(self, request: skills_pb2.GenReq) -> None:
        async def first() -> None:
            async with self.client.GenerateStream(request, TIMEOUT_S) as stream:
                await anext(stream)

        self._loop.run(first())

    def close(self) -> None:
        self._loop.run(self.client.close())


@contextlib.contextmanager
def sync_user(replicas: ReplicaSet) -> Iterator[Client]:
    """Make the sync client of some replicas."""
    with SkillClient(replicas) as client:
        yield _Sync(client)


@contextlib.contextmanager
def async_user(replicas: ReplicaSet) -> Iterator[Client]:
    """Make the async client of some replicas, in its own event loop."""
    with _Loop() as loop:
        client = _Async(loop, AsyncSkillClient(replicas))
        try:
            yield client
        finally:
            client.close()


BOTH = (pytest.param(sync_user, id="sync"), pytest.param(async_user, id="async"))
