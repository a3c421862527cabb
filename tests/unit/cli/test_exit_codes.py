from __future__ import annotations

from pathlib import Path

import grpc
import pytest

from core import errors
from core.cli.common import ExitCode, exit_code_of
from skills import skills_pb2

EXPECTED = {
    errors.SaraiError: ExitCode.FAILED,
    errors.ConfigError: ExitCode.USAGE,
    errors.ImageFileError: ExitCode.USAGE,
    errors.PluginError: ExitCode.FAILED,
    errors.UnknownSkillError: ExitCode.USAGE,
    errors.PoolClosedError: ExitCode.FAILED,
    errors.AnswerError: ExitCode.FAILED,
    errors.CutAnswerError: ExitCode.FAILED,
    errors.InvalidAnswerError: ExitCode.FAILED,
    errors.LoopError: ExitCode.FAILED,
    errors.ModelFileError: ExitCode.FAILED,
    errors.DownloadError: ExitCode.FAILED,
    errors.UnknownModelError: ExitCode.USAGE,
    errors.ComposeError: ExitCode.FAILED,
    errors.NoComposeError: ExitCode.UNAVAILABLE,
    errors.SkillStartError: ExitCode.UNAVAILABLE,
    errors.SkillStartTimeoutError: ExitCode.UNAVAILABLE,
    errors.SkillRestartLimitError: ExitCode.UNAVAILABLE,
    errors.CallError: ExitCode.FAILED,
    errors.InvalidRequestError: ExitCode.USAGE,
    errors.RequestTooLargeError: ExitCode.USAGE,
    errors.UnknownImageError: ExitCode.USAGE,
    errors.NoImagesError: ExitCode.USAGE,
    errors.NotKeptError: ExitCode.FAILED,
    errors.AccessDeniedError: ExitCode.FAILED,
    errors.OverloadedError: ExitCode.UNAVAILABLE,
    errors.UnavailableError: ExitCode.UNAVAILABLE,
    errors.DeadlineError: ExitCode.FAILED,
    errors.CallCancelledError: ExitCode.INTERRUPTED,
    errors.UnsupportedError: ExitCode.FAILED,
    errors.SkillFailedError: ExitCode.FAILED,
}


def make(kind: type[errors.SaraiError]) -> errors.SaraiError:
    if issubclass(kind, errors.CallError):
        return kind(code=grpc.StatusCode.INTERNAL, details="", skill="s", target="t")
    if issubclass(kind, errors.SkillStartError):
        return kind("broke", skill="s", log=None)
    if issubclass(kind, errors.PluginError):
        return kind(name="p", path="x", exception=ValueError())
    if issubclass(kind, errors.UnknownSkillError):
        return kind("s", ())
    if issubclass(kind, errors.AnswerError):
        invalid = (ValueError(),) if issubclass(kind, errors.InvalidAnswerError) else ()
        return kind("text", skills_pb2.GenResp(), *invalid)
    return kind(errors.SaraiError("text") if kind is errors.LoopError else "text")


def all_of(kind: type[errors.SaraiError]) -> set[type[errors.SaraiError]]:
    found = {kind}.union(*map(all_of, kind.__subclasses__()))
    return {cls for cls in found if getattr(errors, cls.__name__, None) is cls}


def test_every_error_has_its_exit_code() -> None:
    assert {kind: exit_code_of(make(kind)) for kind in all_of(errors.SaraiError)} == EXPECTED


@pytest.mark.parametrize("kind", [errors.UnavailableError, errors.InvalidRequestError, errors.DeadlineError])
def test_failed_draft_ends_as_its_cause_does(kind: type[errors.SaraiError]) -> None:
    assert exit_code_of(errors.LoopError(make(kind))) == EXPECTED[kind]


def test_table_of_the_docs_is_that_of_the_code() -> None:
    docs = (Path(__file__).parents[3] / "docs" / "cli.md").read_text()
    for code in ExitCode:
        assert f"| {code.value} | {code.meaning} |" in docs
    assert [code.value for code in ExitCode] == [0, 1, 2, 3, 130]
