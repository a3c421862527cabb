"""The pool's own life cycle: what it releases, and that it does so while other threads use it."""

from __future__ import annotations

import asyncio
import gc
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from core.config import PoolConfig
from core.errors import CallCancelledError, PoolClosedError, SkillStartError, UnavailableError
from core.model_pool import ModelPool
from core.pool.aio import AsyncSkillClient
from core.pool.backend import AddressReplica
from core.pool.client import SkillClient
from core.pool.replica_set import ReplicaSet
from skills import skills_pb2
from tests.stub_plugin import PluginTree, free_port, stub_spec
from tests.stub_skill import Reply, StubSkill
from tests.system.test_replicas import REQUEST, process, replicas, until

TEXT = "one two three"


def watchers() -> int:
    """Return the number of threads that watch replicas."""
    gc.collect()
    return sum(thread.name == "sarai-replicas" for thread in threading.enumerate())


@pytest.fixture
def port(tree: PluginTree) -> int:
    """Return the port of a skill, at which its server, if one runs, is found."""
    found = free_port()
    tree.write_stub("echo", port=found)
    return found


def come_and_go(pool: ModelPool, port: int, caller: str) -> SkillClient:
    """Start a server, call it by two clients, and stop it; return one of the clients."""
    with process("--reply", "yes", port=port):
        clients = [pool.get_skill_client("echo", caller=each) for each in ("same", caller)]
        assert [client.Generate(REQUEST, timeout=10).text for client in clients] == ["yes", "yes"]
    with pytest.raises(UnavailableError):
        clients[0].Generate(REQUEST, timeout=0.3)
    with pytest.raises(SkillStartError):  # the pool searches again, and finds none
        pool.get_skill_client("echo")
    return clients[1]


def test_replicas_that_have_gone_are_released_with_their_last_client(tree: PluginTree, port: int) -> None:
    before = watchers()
    # Servers are separate processes: one that stops in this process may delay gRPC's timers.
    with ModelPool(PoolConfig(embedded=False, connect_timeout_s=1.0), plugins=tree.load()) as pool:
        held = come_and_go(pool, port, "first")
        for caller in ("second", "third"):
            come_and_go(pool, port, caller)
        with process("--reply", "yes", port=port):
            until(lambda: pool.get_skill_client("echo").closed or watchers() - before <= 2)
            assert held.Generate(REQUEST, timeout=10).text == "yes", "a client that is still held continues to work"
        before_the_end = held.closed
    assert (before_the_end, held.closed) == (False, True)
    until(lambda: watchers() == before)


def test_skills_may_be_stopped_while_the_pool_is_closed(tree: PluginTree) -> None:
    names = [f"echo{number}" for number in range(40)]
    for name in names:
        tree.write_stub(name)
    with StubSkill("yes") as skill:
        config = PoolConfig(targets={f"SARAI_{name.upper()}_TARGET": skill.target for name in names})
        for _ in range(10):
            before, pool = watchers(), ModelPool(config, plugins=tree.load())
            clients = [pool.get_skill_client(name) for name in names]
            for client in clients:
                client.Generate(REQUEST, timeout=10)
            together = threading.Barrier(2)

            def stop_all(pool: ModelPool = pool, together: threading.Barrier = together) -> None:
                together.wait(10)
                for name in reversed(names):
                    pool.stop(name)

            with ThreadPoolExecutor(1) as threads:
                stopping = threads.submit(stop_all)
                together.wait(10)
                pool.close()
                stopping.result(10)
            assert all(client.closed for client in clients)
            until(lambda before=before: watchers() <= before)  # type: ignore[misc]


async def ask(client: AsyncSkillClient) -> str:
    answer = await client.Generate(REQUEST, timeout=10)
    assert "".join([chunk.text async for chunk in client.GenerateStream(REQUEST, timeout=10)]) == answer.text
    assert (await client.Health()).status == "SERVING"
    return answer.text


def test_async_client_goes_on_in_the_next_event_loop() -> None:
    with StubSkill(TEXT) as skill, replicas(skill.target) as made:
        client = AsyncSkillClient(made)
        for _ in range(3):
            assert asyncio.run(ask(client)) == TEXT
        assert not made.outstanding
        asyncio.run(client.close())
        with pytest.raises(PoolClosedError):
            asyncio.run(ask(client))


def test_async_client_of_the_pool_goes_on_in_the_next_event_loop(tree: PluginTree) -> None:
    tree.write_stub("echo")
    with StubSkill(TEXT) as skill:
        pool = ModelPool(PoolConfig(targets={"SARAI_ECHO_TARGET": skill.target}), plugins=tree.load())
        client = asyncio.run(pool.get_async_skill_client("echo"))
        assert [asyncio.run(ask(client)) for _ in range(2)] == [TEXT] * 2
        asyncio.run(pool.aclose())
        assert client.closed


def test_async_client_serves_two_event_loops_at_once() -> None:
    async def several(client: AsyncSkillClient) -> list[str]:
        return await asyncio.gather(*(ask(client) for _ in range(4)))

    with StubSkill(Reply(text=TEXT, delay_s=0.1)) as skill, replicas(skill.target) as made:
        client = AsyncSkillClient(made)
        with ThreadPoolExecutor(2) as threads:
            runs = [threads.submit(lambda: asyncio.run(several(client))) for _ in range(2)]
            assert [run.result(20) for run in runs] == [[TEXT] * 4] * 2
        asyncio.run(client.close())


def test_method_of_the_skills_own_stub_can_be_called_from_outside_an_event_loop() -> None:
    class Stub:
        def __init__(self, channel: grpc.Channel) -> None:
            self.Ask = channel.unary_unary(
                "/SkillsService/Generate",
                request_serializer=skills_pb2.GenReq.SerializeToString,
                response_deserializer=skills_pb2.GenResp.FromString,
            )

    with StubSkill(TEXT) as skill:
        made = ReplicaSet(stub_spec(stub=Stub), PoolConfig(), [AddressReplica(skill.target, "address")])
        client = AsyncSkillClient(made)
        assert [asyncio.run(client.Ask(REQUEST, timeout=5)).text for _ in range(2)] == [TEXT, TEXT]
        asyncio.run(client.close())
        made.close()


def test_async_answer_that_outlives_its_event_loop_says_what_to_do() -> None:
    slow = Reply(text=TEXT, chunk_delay_s=30)

    async def first() -> str:
        return (await anext(stream)).text

    with StubSkill(slow) as skill, replicas(skill.target) as made:
        client = AsyncSkillClient(made)
        stream = client.GenerateStream(skills_pb2.GenReq(prompt="x"), timeout=30)
        assert asyncio.run(first()) == "one"
        with pytest.raises(CallCancelledError, match="event loop"):
            asyncio.run(first())
        until(lambda: not made.outstanding)
        asyncio.run(client.close())
