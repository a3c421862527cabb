"""What `skills.runtime` provides for a skill of one function: limits, statuses, streams, drain, and a certain end."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import grpc
import psutil
import pytest

from core.errors import CallError, InvalidRequestError, OverloadedError, SkillFailedError
from core.pool.rpc_status import call_error
from skills import skills_pb2
from skills.runtime.testing import served
from skills.skills_pb2_grpc import SkillsServiceStub
from tests.answers import whole
from tests.obedient_skill import LOAD_S
from tests.servers import ROOT


@dataclass(frozen=True)
class Obedient:
    """What its plugin would provide."""

    name: str = "obedient"
    serve: tuple[str, ...] = ("-m", "tests.obedient_skill")


@pytest.fixture
def skill() -> Iterator[SkillsServiceStub]:
    """Start the skill, with one call at a time and one that waits."""
    with served(Obedient(), "--workers", "1", "--queue", "1") as channel:
        yield SkillsServiceStub(channel)


def say(prompt: str) -> skills_pb2.GenReq:
    return skills_pb2.GenReq(prompt=prompt)


def failure(skill: SkillsServiceStub, request: skills_pb2.GenReq, timeout: float = 10) -> CallError:
    with pytest.raises(grpc.RpcError) as failed:
        skill.Generate(request, timeout=timeout)
    return call_error(failed.value, skill="obedient", target="the test's")


def until(skill: SkillsServiceStub, *, active: int, queued: int = 0) -> None:
    end_s = time.monotonic() + 10
    while True:
        health = skill.Health(skills_pb2.HealthReq(), timeout=5)
        if (health.active_requests, health.queued_requests) == (active, queued):
            return
        assert time.monotonic() < end_s, health
        time.sleep(0.01)


def test_whatever_goes_wrong_has_its_status_and_the_server_goes_on(skill: SkillsServiceStub) -> None:
    refused = failure(skill, say("refuse"))
    assert isinstance(refused, InvalidRequestError)
    assert [violation.field for violation in refused.field_violations] == ["prompt"]
    assert isinstance(failure(skill, say("")), InvalidRequestError)
    for prompt in ("fail", "stop", "count and fail"):
        failed = failure(skill, say(prompt))
        assert isinstance(failed, SkillFailedError)
        assert "secret" not in str(failed)  # the exception's text is only in the log
    assert skill.Generate(say("well"), timeout=10).text == "did well"
    health = skill.Health(skills_pb2.HealthReq(), timeout=5)
    assert (health.status, health.version, health.active_requests) == ("SERVING", "1.2.3", 0)
    assert (list(health.features), health.HasField("engine")) == ([], False)


def test_function_sees_parts_of_text_as_content_and_no_others(skill: SkillsServiceStub) -> None:
    def turn(*parts: skills_pb2.Part) -> skills_pb2.GenReq:
        return skills_pb2.GenReq(messages=[skills_pb2.Message(role="user", parts=parts)])

    image = skills_pb2.Part(image=skills_pb2.Image(data=b"PNG"))
    assert skill.Generate(turn(skills_pb2.Part(text="we"), skills_pb2.Part(text="ll")), timeout=10).text == "did well"
    refused = failure(skill, turn(skills_pb2.Part(text="What is this?"), image))
    assert [violation.field for violation in refused.field_violations] == ["messages[0].parts[1].image"]
    assert "`images`" in refused.details()


def test_pieces_come_as_the_function_gives_them(skill: SkillsServiceStub) -> None:
    chunks = list(skill.GenerateStream(say("count"), timeout=10))
    assert [piece.text for piece in chunks[:-1]] == ["0 ", "1 ", "2 ", "3 ", "4 "]
    assert whole(chunks).text == skill.Generate(say("count"), timeout=10).text == "0 1 2 3 4 "


def test_stream_that_fails_in_the_middle_ends_with_a_status(skill: SkillsServiceStub) -> None:
    stream = skill.GenerateStream(say("count and fail"), timeout=10)
    with pytest.raises(grpc.RpcError) as failed:
        list(stream)
    assert failed.value.code() is grpc.StatusCode.INTERNAL


def test_more_than_may_wait_is_turned_away_with_a_wait(skill: SkillsServiceStub) -> None:
    calls = [skill.Generate.future(say("hang"), timeout=20)]
    until(skill, active=1)
    calls.append(skill.Generate.future(say("second"), timeout=20))
    until(skill, active=1, queued=1)
    busy = failure(skill, say("third"))
    for call in calls:
        call.cancel()
    assert isinstance(busy, OverloadedError)
    assert busy.retry_after_s


def test_caller_whose_deadline_ends_in_the_queue_leaves_it(skill: SkillsServiceStub) -> None:
    with ThreadPoolExecutor(1) as caller:
        running = caller.submit(skill.Generate, say("hang"), timeout=1.5)
        until(skill, active=1)
        assert failure(skill, say("second"), timeout=0.2).code() is grpc.StatusCode.DEADLINE_EXCEEDED
        until(skill, active=1)
        assert isinstance(running.exception(10), grpc.RpcError)
    # The function is still running although no caller waits for it, so its slot is not free.
    until(skill, active=1)


def test_running_call_is_answered_to_its_end_after_sigterm_and_no_new_one_is_taken() -> None:
    before = set(psutil.Process().children())
    with served(Obedient(), "--workers", "1") as channel:
        (server,) = set(psutil.Process().children()) - before
        skill = SkillsServiceStub(channel)
        stream = skill.GenerateStream(say("count for ever"), timeout=20)
        next(stream)
        server.terminate()
        end_s = time.monotonic() + 10
        while skill.Health(skills_pb2.HealthReq(), timeout=5).status != "DRAINING":
            assert time.monotonic() < end_s
            time.sleep(0.01)
        assert failure(skill, say("new")).code() is grpc.StatusCode.UNAVAILABLE
        assert next(stream).text
        stream.cancel()
        server.wait(5)


def test_function_that_never_ends_does_not_keep_the_server_from_ending() -> None:
    before = set(psutil.Process().children())
    with served(Obedient(), "--grace-s", "0.2") as channel, ThreadPoolExecutor(1) as caller:
        (server,) = set(psutil.Process().children()) - before
        skill = SkillsServiceStub(channel)
        caller.submit(skill.Generate, say("hang"), timeout=20)
        until(skill, active=1)
        server.terminate()
        server.wait(5)


def test_it_says_serving_only_when_its_object_is_made() -> None:
    begin_s = time.monotonic()
    with served(Obedient()):
        assert time.monotonic() - begin_s > LOAD_S


@pytest.mark.parametrize(
    ("arguments", "environment", "words"),
    [
        (["--workers", "many"], {}, "--workers is 'many'; it must be a whole number"),
        (["--queue", "-1"], {}, "--queue is -1; it must be from 0 to 10000"),
        ([], {"SKILL_OBEDIENT_LOG_LEVEL": "loud"}, "SKILL_OBEDIENT_LOG_LEVEL is 'loud'"),
        (["--listen", "nowhere:1"], {}, "cannot listen on nowhere:1"),
    ],
)
def test_wrong_setting_is_named_as_its_user_wrote_it(
    arguments: list[str], environment: dict[str, str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    done = subprocess.run(
        [sys.executable, "-m", "tests.obedient_skill", *arguments], cwd=ROOT, capture_output=True, text=True,
        timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode in (1, 2)
    assert words in done.stderr
    assert "Traceback" not in done.stderr
