"""The watcher of silent replicas and changing addresses continues, whatever a single one does."""

from __future__ import annotations

import contextlib
import gc
import logging
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from core.config import PoolConfig
from core.pool import watcher
from core.pool.backend import AddressReplica
from core.pool.client import SkillClient
from core.pool.events import Targets
from core.pool.replica_set import ReplicaSet
from core.pool.state import SILENT_S
from skills import skills_pb2
from tests.both_clients import async_user
from tests.fault_proxy import FaultProxy
from tests.stub_plugin import stub_spec
from tests.stub_skill import Reply, StubSkill
from tests.system.test_replicas import REQUEST, replicas, until

TEXT = "one two three"
IN_TIME_S = SILENT_S + 2 * watcher.CHECK_TIMEOUT_S
"""How long a call stays at a silent replica: until that is noticed and probes on the old and a new connection fail."""


@contextlib.contextmanager
def looking(look: watcher.Look, *targets: str) -> Iterator[ReplicaSet]:
    """Make replicas whose addresses may change."""
    found = [AddressReplica(target, "address") for target in targets]
    made = ReplicaSet(stub_spec(), PoolConfig(), found, look)
    try:
        yield made
    finally:
        made.close()


def test_calls_at_several_silent_replicas_all_go_on_in_the_time_of_one() -> None:
    with contextlib.ExitStack() as stack:
        skills = [stack.enter_context(StubSkill(Reply(text=TEXT, chunk_delay_s=0.3))) for _ in range(5)]
        proxies = [stack.enter_context(FaultProxy(skill.target)) for skill in skills]
        made = stack.enter_context(replicas(*(proxy.target for proxy in proxies)))
        client, threads = stack.enter_context(async_user(made)), stack.enter_context(ThreadPoolExecutor(5))
        streams = [client.begin(skills_pb2.GenReq(prompt=str(number))) for number in range(5)]
        firsts = list(threads.map(lambda stream: next(stream).text, streams))
        assert [len(skill.requests) for skill in skills] == [1] * 5
        for proxy in proxies[1:]:
            proxy.stall()
        silent_s = time.monotonic()
        rests = list(threads.map(lambda stream: "".join(chunk.text for chunk in stream), streams))
        assert time.monotonic() - silent_s < IN_TIME_S + 2
        assert [first + rest for first, rest in zip(firsts, rests, strict=True)] == [TEXT] * 5


def test_name_that_cannot_be_looked_up_for_long_delays_no_silent_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watcher, "LOOK_EVERY_S", 0.1)
    hanging, released = threading.Event(), threading.Event()

    def look() -> Sequence[str]:
        hanging.set()
        released.wait(60)
        return ()

    slow = Reply(text=TEXT, chunk_delay_s=0.3)
    with (
        StubSkill(slow) as first, FaultProxy(first.target) as proxy, StubSkill(slow) as second,
        looking(look, proxy.target, second.target) as made, SkillClient(made) as client,
    ):  # fmt: skip
        streams = [client.GenerateStream(skills_pb2.GenReq(prompt=str(number)), timeout=30) for number in range(2)]
        for stream in streams:
            next(stream)
        assert hanging.wait(5)
        proxy.stall()
        silent_s = time.monotonic()
        for stream in streams:
            assert "".join(chunk.text for chunk in stream) == " two three"
        assert time.monotonic() - silent_s < IN_TIME_S + 2
        released.set()


def test_look_that_fails_is_not_the_last_one(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(watcher, "LOOK_EVERY_S", 0.05)
    caplog.set_level(logging.WARNING)
    with StubSkill("one") as one, StubSkill("two") as two:
        found = [two.target]

        def look() -> Sequence[str]:
            if found:
                raise UnicodeError(found.pop())
            return [two.target]

        with looking(look, one.target) as made, SkillClient(made) as client:
            client.Generate(REQUEST, timeout=10)
            until(lambda: made.target == two.target)
            assert client.Generate(REQUEST, timeout=10).text == "two"
    assert two.target in caplog.text


def test_replica_that_is_no_target_any_more_leaves_nothing_behind() -> None:
    def threads() -> int:
        return sum(thread.name == "sarai-health" for thread in threading.enumerate())

    before = threads()
    with (
        StubSkill(Reply(text=TEXT, chunk_delay_s=30)) as old, StubSkill("yes") as new, StubSkill("yes") as other,
        replicas(old.target, other.target) as made, SkillClient(made) as client,
    ):  # fmt: skip
        stream = client.GenerateStream(REQUEST, timeout=30)
        next(stream)
        gone = weakref.ref(made.replicas[0])
        until(lambda: bool(made.replicas[0].checked_s))  # it is probed because it is silent
        stream.close()
        del stream
        made.tell(Targets([new.target, other.target]))
        for number in range(2):
            assert client.Generate(skills_pb2.GenReq(prompt=str(number)), timeout=10).text == "yes"
        until(lambda: not gc.collect() and gone() is None)
        until(lambda: threads() <= before + 2)
