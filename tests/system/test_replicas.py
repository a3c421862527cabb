"""Several replicas behind one client: real servers with scripted answers, each with its own socket."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from core.config import PoolConfig
from core.errors import (
    DeadlineError,
    SkillFailedError,
    UnavailableError,
)
from core.pool.backend import AddressReplica
from core.pool.client import SkillClient
from core.pool.events import HealthTold, Probed
from core.pool.records import EJECT_AFTER
from core.pool.replica_set import ReplicaSet
from core.rpc.health import check_serving
from skills import skills_pb2
from skills.runtime.pieces import HOLD_S
from skills.wire import FEW_PIECES
from tests.both_clients import User, async_user, sync_user
from tests.fault_proxy import FaultProxy
from tests.servers import ROOT
from tests.stub_plugin import free_port, stub_spec
from tests.stub_skill import Answer, Failure, Reply, StubSkill

REQUEST = skills_pb2.GenReq(prompt="x")
FULL = grpc.StatusCode.RESOURCE_EXHAUSTED


@contextlib.contextmanager
def replicas(*targets: str, **settings: object) -> Iterator[ReplicaSet]:
    config = PoolConfig(**settings)  # type: ignore[arg-type]  # any settings that a test chooses
    made = ReplicaSet(stub_spec(), config, [AddressReplica(target, "address") for target in targets])
    try:
        yield made
    finally:
        made.close()


@contextlib.contextmanager
def client_of(*skills: StubSkill | str, **settings: object) -> Iterator[SkillClient]:
    targets = [skill if isinstance(skill, str) else skill.target for skill in skills]
    with replicas(*targets, **settings) as made, SkillClient(made) as client:
        yield client


@dataclasses.dataclass(frozen=True)
class StubProcess:
    """The stub skill as a separate process."""

    process: subprocess.Popen[bytes]
    target: str


@contextlib.contextmanager
def process(*options: str, module: str = "tests.stub_skill", port: int | None = None) -> Iterator[StubProcess]:
    target = f"127.0.0.1:{port or free_port()}"
    command = [sys.executable, "-m", module, "--listen", target, *options]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL) as running:
        try:
            until(lambda: check_serving(target, "", timeout_s=1.0), 20)
            yield StubProcess(running, target)
        finally:
            running.send_signal(signal.SIGCONT)
            running.kill()


def until(holds: Callable[[], bool], within_s: float = 5.0) -> None:
    end_s = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < end_s, "the condition did not become true in time"
        time.sleep(0.01)


def served(skill: StubSkill) -> int:
    return len(skill.requests)


def test_call_goes_to_another_replica_when_nothing_listens_at_the_first() -> None:
    with StubSkill("yes") as skill, client_of(f"127.0.0.1:{free_port()}", skill) as client:
        started_s = time.monotonic()
        assert [client.Generate(REQUEST, timeout=10).text for _ in range(4)] == ["yes"] * 4
        assert time.monotonic() - started_s < 2
        assert client.stats().failovers <= 1, "a replica that is down gets no further call"


def test_stream_that_breaks_goes_on_at_another_replica_without_a_piece_twice() -> None:
    text = "one two three four five"
    broken = Reply(text=text, break_after=2)
    with StubSkill(broken) as first, StubSkill(text) as second, client_of(first, second) as client:
        for _ in range(2):
            pieces = [chunk.text for chunk in client.GenerateStream(REQUEST, timeout=10)]
            assert "".join(pieces) == text
        (resumed,) = [request for request in second.requests if request.continuations]
        (begun,) = first.requests
    assert resumed.seed == begun.seed
    assert len(resumed.continuations[0].token_ids) == 2


def test_unary_answer_that_breaks_does_not_begin_anew() -> None:
    text = "one two three four five"
    slow = Reply(text=text, break_after=3, chunk_delay_s=1.2 * HOLD_S)
    with StubSkill(slow) as first, StubSkill(text) as second:
        with client_of(first, second) as client:
            answer = client.Generate(REQUEST, timeout=10)
        (resumed,) = second.requests
    assert (answer.text, answer.tokens_generated) == (text, 5)
    assert len(resumed.continuations[0].token_ids) == 3


def test_short_answer_to_a_unary_call_is_one_message() -> None:
    text = "one two three four five"
    with StubSkill(text) as skill, client_of(skill) as client:
        stream = client.GenerateStream(REQUEST, 10.0, metadata=(FEW_PIECES,))
        (only,) = stream
        assert (only.text, only.result.text, len(only.token_ids)) == (text, text, 5)
        assert len(list(client.GenerateStream(REQUEST, timeout=10))) == 6, "a caller that reads pieces gets them all"


def test_time_budget_that_is_spent_is_not_given_to_the_next_replica() -> None:
    broken = Reply(text="one two three", break_after=1, delay_s=0.4)
    with StubSkill(broken) as first, StubSkill("one two three") as second, client_of(first, second) as client:
        client.Generate(skills_pb2.GenReq(prompt="x", time_budget_ms=5_000), timeout=10)
        assert second.requests[0].time_budget_ms <= 4_600


def test_conversation_stays_where_it_is() -> None:
    with StubSkill() as one, StubSkill() as two, StubSkill() as three, client_of(one, two, three) as client:
        for name in "abcdef":
            turns = [skills_pb2.Message(role="user", content=f"I am {name}")]
            for said in ("Hello", "Who?", "Bye"):
                request = skills_pb2.GenReq(messages=turns)
                answer = client.Generate(request, timeout=10)
                turns += [
                    skills_pb2.Message(role="assistant", content=answer.text),
                    skills_pb2.Message(role="user", content=said),
                ]
        homes = Counter(
            (request.messages[0].content, skill.target) for skill in (one, two, three) for request in skill.requests
        )
    assert sorted(homes.values()) == [3] * 6, homes


def test_replica_that_does_not_serve_gets_no_new_call() -> None:
    with StubSkill("one") as one, StubSkill("two") as two, client_of(one, two) as client:
        client.Generate(REQUEST, timeout=10)
        for away, there in ((one, two), (two, one)):
            there.set_serving(True)
            away.set_serving(False)
            until(lambda away=away: "down" in _state(client, away))  # type: ignore[misc]
            until(lambda there=there: "serving" in _state(client, there))  # type: ignore[misc]
            before = served(away)
            for number in range(4):
                client.Generate(skills_pb2.GenReq(prompt=str(number)), timeout=10)
            assert served(away) == before


def _state(client: SkillClient, skill: StubSkill) -> str:
    return _state_at(client, skill.target)


def _state_at(client: SkillClient, target: str) -> str:
    (state,) = [each.state for each in client._wire.pool.status().replicas if each.target == target]
    return state


def test_replica_that_is_back_is_used_again() -> None:
    with StubSkill("one") as one:
        two = StubSkill("two").start()
        with client_of(one, two) as client:
            two.stop()
            for number in range(4):
                assert client.Generate(skills_pb2.GenReq(prompt=str(number)), timeout=10).text == "one"
            two.start()
            until(lambda: "serving" in _state(client, two))
            one.stop()
            assert client.Generate(REQUEST, timeout=10).text == "two"
            two.stop()


def deadly(skills: list[StubSkill]) -> Callable[[skills_pb2.GenReq], Answer]:
    """Return a script that stops its server a moment after a request has arrived."""

    def die(_: skills_pb2.GenReq) -> Answer:
        threading.Timer(0.3, skills.pop(0).stop).start()
        time.sleep(1.0)
        return "too late"

    return die


def test_request_that_two_replicas_died_with_is_not_tried_on_a_third() -> None:
    dying: list[StubSkill] = []
    die = deadly(dying)
    with StubSkill(die) as one, StubSkill(die) as two, StubSkill("yes") as three:
        dying += [one, two]
        with client_of(one, two, three) as client:
            with pytest.raises(UnavailableError, match="2 replicas died") as caught:
                client.Generate(REQUEST, timeout=20)
            assert one.target in str(caught.value)
            assert two.target in str(caught.value)
            assert served(three) == 0
            assert client.Generate(skills_pb2.GenReq(prompt="another"), timeout=10).text == "yes"


@pytest.mark.parametrize("streamed", [False, True])
def test_failures_with_a_success_between_are_not_in_a_row(streamed: bool) -> None:
    failures = [Failure(code=grpc.StatusCode.INTERNAL)] * (EJECT_AFTER - 1)
    with StubSkill([*failures, "yes", *failures]) as skill, client_of(skill) as client:
        for number in range(2 * EJECT_AFTER - 1):
            with contextlib.nullcontext() if number == EJECT_AFTER - 1 else pytest.raises(SkillFailedError):
                if streamed:
                    stream = client.GenerateStream(REQUEST, timeout=10)
                    assert any(chunk.HasField("result") for chunk in stream), "the stream has no result"
                    stream.close()
                else:
                    assert client.Generate(REQUEST, timeout=10).text == "yes"
        assert _state(client, skill) == "serving"


def _drop_connection(client: SkillClient) -> None:
    """Tell the pool that the connection was found dead."""
    pool = client._wire.pool
    pool.tell(Probed(pool.replicas[0], since_s=time.monotonic(), connection_dead=True))
    pool.tell(HealthTold(pool.replicas[0], serving=True))


def test_connections_that_were_given_up_leave_no_descriptor() -> None:
    def descriptors() -> int:
        gc.collect()
        return len(list(Path("/proc/self/fd").iterdir()))

    # In another process, so that all counted descriptors are the client's.
    with process("--reply", "one two three") as skill, client_of(skill.target) as client:
        client.Generate(REQUEST, timeout=10)
        before = descriptors()
        for _ in range(10):
            _drop_connection(client)  # the next call opens a new one
            with client.GenerateStream(REQUEST, timeout=10) as stream:
                next(stream)
            client.Generate(REQUEST, timeout=10)
        until(lambda: descriptors() <= before)


def test_unary_call_that_was_answered_is_not_cancelled() -> None:
    with StubSkill("yes") as skill, client_of(skill) as client:
        for _ in range(20):
            client.Generate(REQUEST, timeout=10)
        until(lambda: all(call.ended.is_set() for call in skill.calls))
        assert not any(call.cancelled for call in skill.calls)


def test_all_replicas_down_is_told_with_each_of_them() -> None:
    targets = [f"127.0.0.1:{free_port()}" for _ in range(3)]
    with client_of(*targets) as client:
        started_s = time.monotonic()
        with pytest.raises(UnavailableError) as caught:
            client.Generate(REQUEST, timeout=3)
        assert time.monotonic() - started_s < 3
    assert all(target in str(caught.value) for target in targets)
    assert "onnect" in str(caught.value)


def test_deadline_holds_while_a_call_waits() -> None:
    skill = StubSkill("yes").start()
    with client_of(skill) as client:
        client.Generate(REQUEST, timeout=10)
        skill.stop()
        started_s = time.monotonic()
        with pytest.raises((UnavailableError, DeadlineError)):
            client.Generate(REQUEST, timeout=1)
        assert time.monotonic() - started_s < 1.5


def test_hung_replica_is_left_and_its_call_goes_on() -> None:
    text = "one two three four"
    with process("--reply", text) as hung, StubSkill(text) as well, client_of(hung.target, well) as client:
        client.Generate(REQUEST, timeout=10)
        hung.process.send_signal(signal.SIGSTOP)
        started_s = time.monotonic()
        for number in range(3):
            request = skills_pb2.GenReq(prompt=f"x{number}")
            assert client.Generate(request, timeout=30).text == text
            assert "".join(chunk.text for chunk in client.GenerateStream(request, timeout=30)) == text
        assert client.Health(timeout=30).status == "SERVING"
        assert time.monotonic() - started_s < 15
        hung.process.send_signal(signal.SIGCONT)
        until(lambda: _state_at(client, hung.target) == "serving", 15)


@pytest.mark.parametrize(("user", "num_replicas"), [(sync_user, 1), (async_user, 2)])
def test_call_on_a_dead_connection_goes_on_over_a_new_one(user: User, num_replicas: int) -> None:
    text = "one two three four"
    slow = Reply(text=text, chunk_delay_s=0.3)
    with contextlib.ExitStack() as stack:
        skills = [stack.enter_context(StubSkill(slow)) for _ in range(num_replicas)]
        proxies = [stack.enter_context(FaultProxy(skill.target)) for skill in skills]
        client = stack.enter_context(user(stack.enter_context(replicas(*(proxy.target for proxy in proxies)))))
        stream = client.begin(REQUEST)
        pieces = [next(stream).text]
        for proxy in proxies:
            proxy.cut_off()
        time.sleep(0.5)
        for proxy in proxies:
            proxy.heal()
        pieces += [chunk.text for chunk in stream]
        assert "".join(pieces) == text
        started_s = time.monotonic()
        assert client.ask(REQUEST).text == text
        assert time.monotonic() - started_s < 10


@pytest.mark.usefixtures("by_content")
def test_equal_requests_of_different_clients_meet_at_one_replica() -> None:
    prompts = [f"prompt {number}" for number in range(40)]
    with StubSkill() as first, StubSkill() as second:
        for order in ((first, second), (second, first)):
            for prompt in prompts:
                with client_of(*order) as client:
                    client.Generate(skills_pb2.GenReq(prompt=prompt), timeout=10)
        seen = [sorted(request.prompt for request in skill.requests) for skill in (first, second)]
    assert sorted(seen[0] + seen[1]) == sorted(2 * prompts)
    assert not set(seen[0]) & set(seen[1])
    assert min(map(len, seen)) > 10, "both have their share"
