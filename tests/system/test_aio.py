from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

import pytest

from core.config import PoolConfig
from core.pool.aio import AsyncSkillClient
from core.pool.backend import AddressReplica
from core.pool.replica_set import ReplicaSet
from skills import skills_pb2
from tests.stub_plugin import stub_spec
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


def test_async_calls_run_side_by_side() -> None:
    async def use(client: AsyncSkillClient) -> list[str]:
        answers = await asyncio.gather(*(client.Generate(REQUEST, timeout=10) for _ in range(8)))
        return [answer.text for answer in answers]

    with StubSkill(Reply(text="yes", delay_s=0.3)) as skill:
        assert with_client(skill.target, lambda client: asyncio.wait_for(use(client), 2)) == ["yes"] * 8


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
