from __future__ import annotations

import dataclasses
import gc
import itertools
import threading
import time

import grpc
import pytest

from core.config import PoolConfig
from core.errors import (
    CallCancelledError,
    CallError,
    DeadlineError,
    PoolClosedError,
    SkillFailedError,
    UnavailableError,
)
from skills import skills_pb2
from skills.runtime.pieces import HOLD_S
from tests.stub_plugin import client_of, free_port
from tests.stub_skill import Call, Failure, Reply, StubSkill

REQUEST = skills_pb2.GenReq(prompt="x")
SLOW = Reply(text="one two three", chunk_delay_s=30)


def ended(call: Call) -> Call:
    assert call.ended.wait(2), "the call is still running at the server"
    return call


def test_client_has_the_words_of_the_stub() -> None:
    with StubSkill("three small words") as skill, client_of(skill.target) as client:
        assert client.Generate(REQUEST, timeout=5.0).text == "three small words"
        assert [chunk.text for chunk in client.GenerateStream(REQUEST, timeout=5.0)][:3] == [
            "three",
            " small",
            " words",
        ]
        assert client.Health().status == "SERVING"
        assert (client.skill, client.target, client.origin) == ("echo", skill.target, "address")


def test_method_that_only_the_skills_own_stub_has_can_be_called() -> None:
    class Stub:
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

    from tests.stub_plugin import stub_spec

    with StubSkill("yes") as skill, client_of(skill.target, spec=stub_spec(stub=Stub)) as client:
        assert client.Ask(REQUEST, timeout=5.0).text == "yes"
        assert next(client.AskStream(REQUEST, 5.0)).text == "yes"
        with pytest.raises(AttributeError, match="Nonsense"):
            client.Nonsense  # noqa: B018
        assert not hasattr(client, "_nothing")


def test_metadata_reaches_the_skill() -> None:
    with StubSkill("yes") as skill, client_of(skill.target) as client:
        client.Generate(REQUEST, timeout=5, metadata=(("x-request-id", "7"),))
        assert skill.calls[0].metadata["x-request-id"] == "7"


def test_call_without_a_timeout_gets_the_default_deadline() -> None:
    config = PoolConfig(call_timeout_s=50, health_timeout_s=3)
    with StubSkill("yes") as skill, client_of(skill.target, config) as client:
        client.Generate(REQUEST)
        list(client.GenerateStream(REQUEST))
        client.Health()
        remaining_s = [call.time_remaining_s for call in skill.calls]
    assert all(s is not None for s in remaining_s)
    assert remaining_s == pytest.approx([50, 50, 3], abs=1)


def test_default_deadline_of_an_answer_is_two_minutes() -> None:
    assert PoolConfig().call_timeout_s == 120


@pytest.mark.parametrize("timeout", [-1.0, float("nan"), float("inf")])
def test_timeout_that_is_no_time_is_refused(timeout: float) -> None:
    with StubSkill("yes") as skill, client_of(skill.target) as client:
        with pytest.raises(ValueError, match="timeout"):
            client.Generate(REQUEST, timeout=timeout)
        assert skill.calls == []


def test_deadline_holds_for_unary_and_stream() -> None:
    with StubSkill(Reply(text="a b", delay_s=30)) as skill, client_of(skill.target) as client:
        for call in (lambda: client.Generate(REQUEST, timeout=0.2), lambda: list(client.GenerateStream(REQUEST, 0.2))):
            started = time.monotonic()
            with pytest.raises(DeadlineError):
                call()
            assert time.monotonic() - started < 1


def test_closing_a_stream_cancels_the_call() -> None:
    with StubSkill(SLOW) as skill, client_of(skill.target) as client:
        stream = client.GenerateStream(REQUEST, timeout=60)
        assert next(stream).text == "one"
        stream.close()
        stream.close()
        assert ended(skill.calls[0]).cancelled
        assert list(stream) == []


def test_leaving_a_stream_early_cancels_the_call() -> None:
    with StubSkill(SLOW) as skill, client_of(skill.target) as client:
        with client.GenerateStream(REQUEST, timeout=60) as stream:
            assert next(stream).text == "one"
        assert ended(skill.calls[0]).cancelled


def test_stream_that_is_forgotten_is_cancelled() -> None:
    with StubSkill(SLOW) as skill, client_of(skill.target) as client:
        assert [chunk.text for chunk in itertools.islice(client.GenerateStream(REQUEST, timeout=60), 1)] == ["one"]
        gc.collect()
        assert ended(skill.calls[0]).cancelled


def test_stream_can_be_cancelled_from_another_thread() -> None:
    with StubSkill(SLOW) as skill, client_of(skill.target) as client:
        stream = client.GenerateStream(REQUEST, timeout=60)
        assert next(stream).text == "one"
        threading.Timer(0.1, stream.cancel).start()
        with pytest.raises(CallCancelledError):
            next(stream)


@pytest.mark.parametrize("failures", [1, 4])
def test_failures_before_anything_came_are_tried_again(failures: int) -> None:
    with StubSkill("yes", initial_failures=failures) as skill, client_of(skill.target) as client:
        assert client.Generate(REQUEST, timeout=10).text == "yes"
        assert len(skill.requests) == failures + 1
    with StubSkill("yes", initial_failures=failures) as skill, client_of(skill.target) as client:
        assert next(client.GenerateStream(REQUEST, timeout=10)).text == "yes"
        assert len(skill.requests) == failures + 1


def test_target_that_never_answered_gets_five_attempts() -> None:
    with StubSkill("yes", initial_failures=100) as skill, client_of(skill.target) as client:
        with pytest.raises(UnavailableError):
            client.Generate(REQUEST, timeout=60)
        assert len(skill.requests) == 5


def test_wrong_address_fails_soon_in_spite_of_a_long_deadline() -> None:
    started = time.monotonic()
    with client_of(f"127.0.0.1:{free_port()}") as client, pytest.raises(UnavailableError):
        client.Generate(REQUEST, timeout=60)
    assert time.monotonic() - started < 5


def test_call_waits_for_a_replica_that_restarts() -> None:
    skill = StubSkill("yes").start()
    with client_of(skill.target) as client:
        client.Generate(REQUEST, timeout=10)
        skill.stop()
        timer = threading.Timer(1.5, skill.start)
        timer.start()
        assert client.Generate(REQUEST, timeout=20).text == "yes"
        assert next(client.GenerateStream(REQUEST, timeout=20)).text == "yes"
        timer.join()
        skill.stop()


def test_replica_that_stays_away_is_given_up_after_the_recovery_time() -> None:
    skill = StubSkill("yes").start()
    with client_of(skill.target, PoolConfig(recovery_s=0.5)) as client:
        client.Generate(REQUEST, timeout=10)
        skill.stop()
        started = time.monotonic()
        with pytest.raises(UnavailableError):
            client.Generate(REQUEST, timeout=60)
        assert 0.4 < time.monotonic() - started < 5


def test_wait_that_the_skill_asks_for_is_kept_to() -> None:
    failure = Failure(code=grpc.StatusCode.UNAVAILABLE, retry_after_s=0.6)
    with StubSkill("yes", initial_failures=1, failure=failure) as skill, client_of(skill.target) as client:
        client.Generate(REQUEST, timeout=10)
        first, second = skill.calls
    assert second.arrived_s - first.arrived_s >= 0.6


def test_wait_longer_than_the_deadline_is_not_begun() -> None:
    failure = Failure(code=grpc.StatusCode.UNAVAILABLE, retry_after_s=30)
    with StubSkill(failure) as skill, client_of(skill.target) as client:
        started = time.monotonic()
        with pytest.raises(UnavailableError) as caught:
            client.Generate(REQUEST, timeout=10)
        assert caught.value.retry_after_s == 30
        assert time.monotonic() - started < 2


@pytest.mark.parametrize("code", [grpc.StatusCode.INTERNAL, grpc.StatusCode.RESOURCE_EXHAUSTED])
def test_other_failures_are_not_tried_again(code: grpc.StatusCode) -> None:
    with StubSkill(Failure(code=code)) as skill, client_of(skill.target) as client:
        with pytest.raises(CallError):
            client.Generate(REQUEST, timeout=10)
        assert len(skill.requests) == 1


def test_answer_that_breaks_goes_on_where_it_was() -> None:
    reply = Reply(text="one two three four five", break_after=2)
    with StubSkill(reply) as skill, client_of(skill.target) as client:
        answer = Reply(text="one two three four five")
        skill.script([reply, answer])
        assert [chunk.text for chunk in client.GenerateStream(REQUEST, timeout=10)] == [*answer.words(), ""]
        slow = dataclasses.replace(reply, chunk_delay_s=1.2 * HOLD_S)  # else it breaks before anything is sent
        skill.script([slow, slow, answer])
        whole = client.Generate(REQUEST, timeout=10)
        first, second, third = skill.requests[-3:]
        stats = client.stats()
    assert whole.text == answer.text
    assert whole.tokens_generated == 5
    assert [len(each.continuations[0].token_ids) for each in (second, third)] == [2, 4]
    assert first.seed == second.seed == third.seed == whole.seed, "who goes on draws the same numbers"
    assert (stats.calls, stats.attempts, stats.retries, stats.failovers) == (2, 5, 3, 0)


def test_answer_that_breaks_through_the_skills_fault_ends_there() -> None:
    reply = Reply(text="one two three", break_after=2, failure=Failure(code=grpc.StatusCode.INTERNAL))
    with StubSkill(reply) as skill, client_of(skill.target) as client:
        got: list[str] = []
        with pytest.raises(SkillFailedError):
            got.extend(chunk.text for chunk in client.GenerateStream(REQUEST, timeout=10))
        assert len(skill.requests) == 1


def test_stream_of_another_method_is_not_begun_again_after_a_piece() -> None:
    from tests.stub_plugin import stub_spec

    class Stub:
        def __init__(self, channel: grpc.Channel) -> None:
            self.AskStream = channel.unary_stream(
                "/SkillsService/GenerateStream",
                request_serializer=skills_pb2.GenReq.SerializeToString,
                response_deserializer=skills_pb2.GenChunk.FromString,
            )

    spec = stub_spec(stub=Stub)
    with StubSkill(Reply(text="one two three", break_after=2)) as skill, client_of(skill.target, spec=spec) as client:
        with pytest.raises(UnavailableError):
            list(client.AskStream(REQUEST, timeout=10))
        assert len(skill.requests) == 1


def test_attempts_share_the_deadline_of_the_call() -> None:
    failure = Failure(code=grpc.StatusCode.UNAVAILABLE, retry_after_s=0.3)
    with StubSkill("yes", initial_failures=2, failure=failure) as skill, client_of(skill.target) as client:
        client.Generate(REQUEST, timeout=10)
        first, second, third = (call.time_remaining_s or 0.0 for call in skill.calls)
    assert first > second + 0.2 > third + 0.4


def test_closed_client_says_so() -> None:
    with StubSkill("yes") as skill:
        client = client_of(skill.target)
        client.close()
        client.close()
        with pytest.raises(PoolClosedError):
            client.Generate(REQUEST, timeout=1)


def test_closing_the_client_ends_its_running_calls() -> None:
    with StubSkill(Reply(text="a", delay_s=30)) as skill, client_of(skill.target) as client:
        threading.Timer(0.2, client.close).start()
        with pytest.raises(CallCancelledError):
            client.Generate(REQUEST, timeout=60)
        assert ended(skill.calls[0]).cancelled
