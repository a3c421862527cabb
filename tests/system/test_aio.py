from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

import pytest

from core.aio import AsyncSkillClient
from core.backends.address import AddressReplica
from core.config import PoolConfig
from core.errors import DeadlineError, PoolClosedError, UnavailableError
from core.pool.replica_set import ReplicaSet
from skills import skills_pb2
from tests.stub_plugin import free_port, stub_spec
from tests.stub_skill import Call, Reply, StubSkill

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

REQUEST = skills_pb2.GenReq(prompt="x")
SLOW = Reply(text="one two three", chunk_delay_s=30)
T = TypeVar("T")


def with_client(target: str, use: Callable[[AsyncSkillClient], Awaitable[T]], config: PoolConfig | None = None) -> T:
    async def run() -> T:
        replicas = ReplicaSet(stub_spec(), config or PoolConfig(), [AddressReplica(target, "address")])
        try:
            async with AsyncSkillClient(replicas) as client:
                return await use(client)
        finally:
            replicas.close()

    return asyncio.run(run())


def ended(call: Call) -> Call:
    assert call.ended.wait(2), "the call is still running at the server"
    return call


def test_async_client_has_the_words_of_the_stub() -> None:
    async def use(client: AsyncSkillClient) -> None:
        assert (await client.Generate(REQUEST, timeout=5.0)).text == "two words"
        assert [chunk.text async for chunk in client.GenerateStream(REQUEST, timeout=5.0)][:2] == ["two", " words"]
        assert (await client.Health()).status == "SERVING"
        assert (client.skill, client.origin) == ("echo", "address")

    with StubSkill("two words") as skill:
        with_client(skill.target, use)


def test_async_calls_run_side_by_side() -> None:
    async def use(client: AsyncSkillClient) -> list[str]:
        answers = await asyncio.gather(*(client.Generate(REQUEST, timeout=10) for _ in range(8)))
        return [answer.text for answer in answers]

    with StubSkill(Reply(text="yes", delay_s=0.3)) as skill:
        assert with_client(skill.target, lambda client: asyncio.wait_for(use(client), 2)) == ["yes"] * 8


def test_async_failures_before_anything_came_are_tried_again() -> None:
    async def use(client: AsyncSkillClient) -> tuple[str, str]:
        unary = await client.Generate(REQUEST, timeout=10)
        skill.stop()
        skill.start()
        return unary.text, (await anext(client.GenerateStream(REQUEST, timeout=10))).text

    with StubSkill("yes", initial_failures=3) as skill:
        assert with_client(skill.target, use) == ("yes", "yes")


def test_async_errors_are_ours() -> None:
    async def use(client: AsyncSkillClient) -> None:
        with pytest.raises(UnavailableError):
            await client.Generate(REQUEST, timeout=30)
        with pytest.raises(UnavailableError):
            await anext(client.GenerateStream(REQUEST, timeout=30))
        await client.close()
        with pytest.raises(PoolClosedError):
            await client.Generate(REQUEST)

    with_client(f"127.0.0.1:{free_port()}", use)


def test_async_deadline_holds() -> None:
    async def use(client: AsyncSkillClient) -> None:
        with pytest.raises(DeadlineError):
            await client.Generate(REQUEST, timeout=0.2)
        with pytest.raises(DeadlineError):
            await anext(client.GenerateStream(REQUEST, timeout=0.2))

    with StubSkill(Reply(text="a", delay_s=30)) as skill:
        with_client(skill.target, use)


def test_async_answer_that_breaks_goes_on_where_it_was() -> None:
    answer = Reply(text="one two three four")
    broken = Reply(text=answer.text, break_after=2)

    async def use(client: AsyncSkillClient) -> None:
        pieces = [chunk.text async for chunk in client.GenerateStream(REQUEST, timeout=10)]
        assert pieces == [*answer.words(), ""]
        assert (await client.Generate(REQUEST, timeout=10)).text == answer.text
        assert client.stats().attempts == 4

    with StubSkill([broken, answer, broken, answer]) as skill:
        with_client(skill.target, use)


def test_leaving_an_async_stream_early_cancels_the_call() -> None:
    async def use(client: AsyncSkillClient) -> None:
        async with client.GenerateStream(REQUEST, timeout=60) as stream:
            assert (await anext(stream)).text == "one"
        assert await asyncio.to_thread(lambda: ended(skill.calls[0]).cancelled)

    with StubSkill(SLOW) as skill:
        with_client(skill.target, use)


def test_cancelling_the_task_cancels_the_call() -> None:
    async def read(client: AsyncSkillClient) -> None:
        async for _ in client.GenerateStream(REQUEST, timeout=60):
            pass

    async def use(client: AsyncSkillClient) -> None:
        for task in (
            asyncio.create_task(read(client)),
            asyncio.create_task(client.Generate(REQUEST, timeout=60)),
        ):
            await asyncio.sleep(0.3)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert all([(await asyncio.to_thread(ended, call)).cancelled for call in skill.calls])
        assert len(skill.calls) == 2

    with StubSkill(SLOW) as skill:
        with_client(skill.target, use)
