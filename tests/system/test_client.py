"""What both clients promise, over real sockets; the pool's decisions are tested in virtual time."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from collections.abc import Callable, Iterator

import grpc
import pytest

from core.config import PoolConfig
from core.errors import (
    CallCancelledError,
    DeadlineError,
    PoolClosedError,
    SaraiError,
    SkillFailedError,
    UnavailableError,
)
from core.pool.backend import AddressReplica
from core.pool.replica_set import ReplicaSet
from skills import skills_pb2
from skills.runtime.pieces import HOLD_S
from tests.both_clients import BOTH, Client, User
from tests.stub_plugin import free_port, stub_spec
from tests.stub_skill import Call, Failure, Reply, StubSkill

REQUEST = skills_pb2.GenReq(prompt="x")
SLOW = Reply(text="one two three", chunk_delay_s=30)
At = Callable[..., contextlib.AbstractContextManager[Client]]


class OwnStub:
    """A stub with other methods than those of SkillsService."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.Ask = channel.unary_unary(
            "/SkillsService/Generate",
            request_serializer=skills_pb2.GenReq.SerializeToString,
            response_deserializer=skills_pb2.GenResp.FromString,
        )
        self.AskStream = channel.unary_stream(
            "/SkillsService/GenerateStream",
            request_serializer=skills_pb2.GenReq.SerializeToString,
            response_deserializer=skills_pb2.GenChunk.FromString,
        )


@pytest.fixture(params=BOTH)
def at(request: pytest.FixtureRequest) -> At:
    """Return a function that opens a client for an address: the sync client, then the async one."""
    user: User = request.param

    @contextlib.contextmanager
    def client_at(target: str, *, stub: type | None = None, **settings: float) -> Iterator[Client]:
        spec = stub_spec(stub=stub) if stub else stub_spec()
        config = PoolConfig(**settings)  # type: ignore[arg-type]  # any settings that a test chooses
        made = ReplicaSet(spec, config, [AddressReplica(target, "address")])
        with contextlib.closing(made), user(made) as client:
            yield client
        assert not made.outstanding

    return client_at


def ended(call: Call) -> Call:
    assert call.ended.wait(2), "the call is still running at the server"
    return call


def test_client_has_the_words_of_the_stub(at: At) -> None:
    with StubSkill("three small words") as skill, at(skill.target) as client:
        assert client.ask(REQUEST).text == "three small words"
        assert [chunk.text for chunk in client.begin(REQUEST)][:3] == ["three", " small", " words"]
        assert client.call("Health").status == "SERVING"
        own = client.client
        assert (own.skill, own.target, own.origin) == ("echo", skill.target, "address")


def test_method_that_only_the_skills_own_stub_has_can_be_called(at: At) -> None:
    with StubSkill("yes") as skill, at(skill.target, stub=OwnStub) as client:
        assert client.call("Ask", REQUEST, timeout=5.0).text == "yes"
        assert next(iter(client.begin(REQUEST, 5.0, "AskStream"))).text == "yes"
        with pytest.raises(AttributeError, match="Nonsense"):
            client.client.Nonsense  # noqa: B018
        assert not hasattr(client.client, "_nothing")


def test_metadata_reaches_the_skill(at: At) -> None:
    with StubSkill("yes") as skill, at(skill.target) as client:
        client.ask(REQUEST, metadata=(("x-request-id", "7"),))
        assert skill.calls[0].metadata["x-request-id"] == "7"


def test_call_without_a_timeout_gets_the_default_deadline(at: At) -> None:
    with StubSkill("yes") as skill, at(skill.target, call_timeout_s=50, health_timeout_s=3) as client:
        client.ask(REQUEST, None)
        list(client.begin(REQUEST, None))
        client.call("Health")
        remaining_s = [call.time_remaining_s for call in skill.calls]
    assert all(s is not None for s in remaining_s)
    assert remaining_s == pytest.approx([50, 50, 3], abs=1)


def test_default_deadline_of_an_answer_is_two_minutes() -> None:
    assert PoolConfig().call_timeout_s == 120


@pytest.mark.parametrize("timeout", [-1.0, float("nan"), float("inf")])
def test_timeout_that_is_no_time_is_refused(at: At, timeout: float) -> None:
    with StubSkill("yes") as skill, at(skill.target) as client:
        with pytest.raises(ValueError, match="timeout"):
            client.ask(REQUEST, timeout)
        assert skill.calls == []


def test_deadline_holds_for_unary_and_stream(at: At) -> None:
    with StubSkill(Reply(text="a b", delay_s=30)) as skill, at(skill.target) as client:
        for call in (lambda: client.ask(REQUEST, 0.2), lambda: list(client.begin(REQUEST, 0.2))):
            started = time.monotonic()
            with pytest.raises(DeadlineError):
                call()
            assert time.monotonic() - started < 1


def test_closing_a_stream_cancels_the_call(at: At) -> None:
    with StubSkill(SLOW) as skill, at(skill.target) as client:
        stream = client.begin(REQUEST)
        assert next(stream).text == "one"
        stream.close()
        stream.close()
        assert ended(skill.calls[0]).cancelled
        assert list(stream) == []


def test_leaving_a_stream_early_cancels_the_call(at: At) -> None:
    with StubSkill(SLOW) as skill, at(skill.target) as client:
        client.peek(REQUEST)
        assert ended(skill.calls[0]).cancelled


def test_failures_before_anything_came_are_tried_again(at: At) -> None:
    with StubSkill([Failure(), "yes", Failure(), "yes"]) as skill, at(skill.target) as client:
        assert client.ask(REQUEST).text == "yes"
        assert next(client.begin(REQUEST)).text == "yes"
        assert len(skill.requests) == 4


def test_wrong_address_fails_soon_with_an_error_of_ours(at: At) -> None:
    started = time.monotonic()
    with at(f"127.0.0.1:{free_port()}") as client, pytest.raises(UnavailableError):
        client.ask(REQUEST)
    assert time.monotonic() - started < 5


def test_call_waits_for_a_replica_that_restarts(at: At) -> None:
    skill = StubSkill("yes").start()
    with at(skill.target) as client:
        client.ask(REQUEST)
        skill.stop()
        timer = threading.Timer(0.5, skill.start)
        timer.start()
        assert client.ask(REQUEST).text == "yes"
        assert next(client.begin(REQUEST)).text == "yes"
        timer.join()
        skill.stop()


def test_wait_that_the_skill_asks_for_is_kept_to_within_the_deadline_of_the_call(at: At) -> None:
    failure = Failure(code=grpc.StatusCode.UNAVAILABLE, retry_after_s=0.6)
    with StubSkill("yes", initial_failures=1, failure=failure) as skill, at(skill.target) as client:
        client.ask(REQUEST, 9.0)  # longer timeouts are rounded on the wire
        first, second = skill.calls
    assert second.arrived_s - first.arrived_s >= 0.6
    assert (first.time_remaining_s or 0.0) > (second.time_remaining_s or 0.0) + 0.5


def test_answer_that_breaks_goes_on_where_it_was(at: At) -> None:
    reply = Reply(text="one two three four five", break_after=2)
    with StubSkill(reply) as skill, at(skill.target) as client:
        answer = Reply(text="one two three four five")
        skill.script([reply, answer])
        assert [chunk.text for chunk in client.begin(REQUEST)] == [*answer.words(), ""]
        slow = dataclasses.replace(reply, chunk_delay_s=1.2 * HOLD_S)  # otherwise it breaks before anything is sent
        skill.script([slow, slow, answer])
        whole = client.ask(REQUEST)
        first, second, third = skill.requests[-3:]
        stats = client.client.stats()
    assert whole.text == answer.text
    assert whole.tokens_generated == 5
    assert [len(each.continuations[0].token_ids) for each in (second, third)] == [2, 4]
    assert first.seed == second.seed == third.seed == whole.seed, "every attempt draws the same random numbers"
    assert (stats.calls, stats.attempts, stats.retries, stats.failovers) == (2, 5, 3, 0)


def test_answer_that_breaks_through_the_skills_fault_ends_there(at: At) -> None:
    reply = Reply(text="one two three", break_after=2, failure=Failure(code=grpc.StatusCode.INTERNAL))
    with StubSkill(reply) as skill, at(skill.target) as client:
        got: list[str] = []
        with pytest.raises(SkillFailedError):
            got.extend(chunk.text for chunk in client.begin(REQUEST))
        assert len(skill.requests) == 1


def test_stream_of_another_method_is_not_begun_again_after_a_piece(at: At) -> None:
    with StubSkill(Reply(text="one two three", break_after=2)) as skill, at(skill.target, stub=OwnStub) as client:
        with pytest.raises(UnavailableError):
            list(client.begin(REQUEST, method="AskStream"))
        assert len(skill.requests) == 1


def test_closed_client_says_so(at: At) -> None:
    with StubSkill("yes") as skill, at(skill.target) as client:
        client.close()
        client.close()
        with pytest.raises(PoolClosedError):
            client.ask(REQUEST)


def test_closing_the_client_ends_its_running_calls(at: At) -> None:
    with StubSkill(Reply(text="a", delay_s=30)) as skill, at(skill.target) as client:
        threading.Timer(0.2, client.close).start()
        with pytest.raises(CallCancelledError):
            client.ask(REQUEST)
        assert ended(skill.calls[0]).cancelled


def test_closing_a_client_ends_its_calls_with_one_of_our_errors(at: At) -> None:
    def ask_until_it_fails(client: Client, failed: list[SaraiError]) -> None:
        while not failed:
            try:
                client.ask(REQUEST)
                list(client.begin(REQUEST))
                client.call("Health")
            except SaraiError as error:
                failed.append(error)

    with StubSkill("a b") as skill:
        for number in range(20):
            with at(skill.target) as client:
                ends: list[list[SaraiError]] = [[] for _ in range(6)]
                asking = [threading.Thread(target=ask_until_it_fails, args=(client, end)) for end in ends]
                for thread in asking:
                    thread.start()
                time.sleep(0.001 * number)
                client.close()
                for thread in asking:
                    thread.join(5)
            assert {type(error) for end in ends for error in end} <= {CallCancelledError, PoolClosedError}
            assert all(ends)
