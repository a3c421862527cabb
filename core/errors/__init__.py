"""The errors that a caller can meet.

    SaraiError
    ├── ConfigError               a setting is out of its range
    ├── PluginError               a plugin could not be loaded
    ├── UnknownSkillError         no plugin provides a skill of this name
    ├── UnknownModelError         no catalogue has a model of this name
    ├── ModelFileError            a model file is damaged, or not what it should be
    │   └── DownloadError         it could not be fetched
    ├── ImageFileError            an image cannot be read, or is none of a kind that skills read
    ├── PoolClosedError           the pool or the client is closed
    ├── ComposeError              compose or the container engine failed
    │   └── NoComposeError        there is none, or no compose project
    ├── SkillStartError           the local server of a skill did not come up; also a grpc.RpcError, UNAVAILABLE
    │   ├── SkillStartTimeoutError
    │   └── SkillRestartLimitError
    ├── AnswerError               an answer came, but does not give the object that was asked for
    │   ├── CutAnswerError        it was cut off
    │   └── InvalidAnswerError    it does not satisfy its type
    ├── LoopError                 a loop has no answer
    └── CallError                 a call failed; also a grpc.RpcError
        ├── InvalidRequestError   INVALID_ARGUMENT, OUT_OF_RANGE, NOT_FOUND, ALREADY_EXISTS, FAILED_PRECONDITION
        │   ├── RequestTooLargeError
        │   ├── UnknownImageError     an image is named by its hash, and the replica does not have its bytes
        │   └── NoImagesError         the replica reads no images
        ├── NotKeptError          NOT_FOUND: only a kept answer would do, and there is none
        ├── AccessDeniedError     UNAUTHENTICATED, PERMISSION_DENIED
        ├── OverloadedError       RESOURCE_EXHAUSTED
        ├── UnavailableError      UNAVAILABLE, ABORTED
        ├── DeadlineError         DEADLINE_EXCEEDED
        ├── CallCancelledError    CANCELLED
        ├── UnsupportedError      UNIMPLEMENTED
        └── SkillFailedError      INTERNAL, UNKNOWN, DATA_LOSS

The text of each is one line: what happened, where, and what to do about it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.errors.plain import (
    AnswerError,
    ComposeError,
    ConfigError,
    CutAnswerError,
    DownloadError,
    ImageFileError,
    InvalidAnswerError,
    LoopError,
    ModelFileError,
    NoComposeError,
    PluginError,
    PoolClosedError,
    SaraiError,
    UnknownModelError,
    UnknownSkillError,
    one_line,
)

if TYPE_CHECKING:
    from core.errors.calls import (
        ERROR_OF_CODE,
        AccessDeniedError,
        CallCancelledError,
        CallError,
        DeadlineError,
        FieldViolation,
        InvalidRequestError,
        NoImagesError,
        NotKeptError,
        OverloadedError,
        RequestTooLargeError,
        SkillFailedError,
        SkillRestartLimitError,
        SkillStartError,
        SkillStartTimeoutError,
        UnavailableError,
        UnknownImageError,
        UnsupportedError,
    )
else:

    def __getattr__(name: str) -> object:
        """Return an error of calls, which needs gRPC. Settings, plugins and the help do without."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from core.errors import calls

        return getattr(calls, name)


__all__ = [
    "ERROR_OF_CODE",
    "AccessDeniedError",
    "AnswerError",
    "CallCancelledError",
    "CallError",
    "ComposeError",
    "ConfigError",
    "CutAnswerError",
    "DeadlineError",
    "DownloadError",
    "FieldViolation",
    "ImageFileError",
    "InvalidAnswerError",
    "InvalidRequestError",
    "LoopError",
    "ModelFileError",
    "NoComposeError",
    "NoImagesError",
    "NotKeptError",
    "OverloadedError",
    "PluginError",
    "PoolClosedError",
    "RequestTooLargeError",
    "SaraiError",
    "SkillFailedError",
    "SkillRestartLimitError",
    "SkillStartError",
    "SkillStartTimeoutError",
    "UnavailableError",
    "UnknownImageError",
    "UnknownModelError",
    "UnknownSkillError",
    "UnsupportedError",
    "one_line",
]
