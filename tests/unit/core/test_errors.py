from __future__ import annotations

import pickle
from pathlib import Path

import grpc
import pytest

from core.errors import (
    ERROR_OF_CODE,
    CallError,
    FieldViolation,
    InvalidRequestError,
    OverloadedError,
    RequestTooLargeError,
    SaraiError,
    SkillStartError,
    UnknownSkillError,
)
from core.pool.rpc_status import rich_details
from skills import skills_pb2
from tests.stub_plugin import client_of
from tests.stub_skill import Failure, StubSkill


def raised_by(failure: Failure) -> CallError:
    with StubSkill(failure) as skill, client_of(skill.target) as client, pytest.raises(CallError) as caught:
        client.Generate(skills_pb2.GenReq(prompt="x"), timeout=0.3)
    return caught.value


def test_every_status_code_but_ok_has_an_error_class() -> None:
    assert set(ERROR_OF_CODE) == set(grpc.StatusCode) - {grpc.StatusCode.OK}


@pytest.mark.parametrize("code", list(ERROR_OF_CODE))
def test_every_failed_call_is_an_rpc_error_with_its_code_and_one_line_of_text(code: grpc.StatusCode) -> None:
    error = raised_by(Failure(code=code, details="two\nlines"))
    assert type(error) is ERROR_OF_CODE[code]
    assert isinstance(error, grpc.RpcError)
    assert isinstance(error, SaraiError)
    assert error.code() is code
    assert error.details() == "two\nlines"
    assert isinstance(error.__cause__, grpc.RpcError)
    for text in (str(error), repr(error)):
        assert "\n" not in text
        assert all(part in text for part in ("echo", error.target, code.name, "two lines"))


def test_full_queue_tells_how_long_to_wait() -> None:
    error = raised_by(Failure(code=grpc.StatusCode.RESOURCE_EXHAUSTED, retry_after_s=1.25))
    assert isinstance(error, OverloadedError)
    assert error.retry_after_s == 1.25
    assert error.retryable
    assert not error.caller_fault
    assert "try again in 1.25 s" in str(error)


def test_full_queue_without_retry_info_tells_no_wait() -> None:
    error = raised_by(Failure(code=grpc.StatusCode.RESOURCE_EXHAUSTED))
    assert error.retry_after_s is None
    assert error.retryable


def test_refused_field_is_named() -> None:
    fields = (("temperature", "must be 0 to 5"),)
    error = raised_by(Failure(code=grpc.StatusCode.INVALID_ARGUMENT, details="bad request", fields=fields))
    assert isinstance(error, InvalidRequestError)
    assert error.caller_fault
    assert not error.retryable
    assert error.field_violations == (FieldViolation(field="temperature", description="must be 0 to 5"),)
    assert "temperature: must be 0 to 5" in str(error)


def test_message_over_the_limit_is_no_matter_of_waiting() -> None:
    with StubSkill("short") as skill, client_of(skill.target) as client, pytest.raises(RequestTooLargeError) as caught:
        client.Generate(skills_pb2.GenReq(prompt="x" * 5_000_000), timeout=5)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert caught.value.caller_fault
    assert not caught.value.retryable


@pytest.mark.parametrize("encoded", [b"\xff\xff\xff", "text", b"\x1a\x02\x08\x01"])
def test_status_details_that_do_not_parse_are_left_out(encoded: bytes | str) -> None:
    assert rich_details((("grpc-status-details-bin", encoded),)) == (None, (), "")


def test_unknown_skill_tells_the_known_and_the_nearest() -> None:
    error = UnknownSkillError("draff", ["review", "draft"], left_out=["skill_broken"])
    assert error.known == ("draft", "review")
    assert error.nearest == "draft"
    assert all(part in str(error) for part in ("'draff'", "did you mean 'draft'?", "draft, review", "skill_broken"))


def test_unknown_skill_suggests_no_name_that_is_nothing_like_it() -> None:
    error = UnknownSkillError("zzz", ["draft"])
    assert error.nearest is None
    assert "did you mean" not in str(error)


@pytest.mark.parametrize(
    "error",
    [
        CallError(code=grpc.StatusCode.INTERNAL, details="d", skill="s", target="t", retry_after_s=1.0),
        SkillStartError("ended", skill="s", log=Path("/l"), exit_code=1, log_tail=["a"]),
        UnknownSkillError("a", ["b"]),
    ],
)
def test_errors_come_through_pickle_whole(error: SaraiError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)


def test_failed_start_is_an_rpc_error_too() -> None:
    error = SkillStartError("ended with exit code 1", skill="s", log=Path("/l"), exit_code=1)
    assert isinstance(error, grpc.RpcError)
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert error.details() == str(error)
