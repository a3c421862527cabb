"""The errors that are gRPC's too: a call failed, or the local server that it needs did not come up."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from core.errors.plain import SaraiError, one_line
from core.rpc import grpc

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path


class SkillStartError(SaraiError, grpc.RpcError):
    """The local server of a skill did not start. Also a `grpc.RpcError`, since calls restart a server that has ended.

    Attributes:
        skill: Name of the skill.
        exit_code: Exit code of the process, negative for a signal; None if it did not end.
        log: File that the process wrote to.
        log_tail: Its last lines.
    """

    def __init__(
        self, what: str, *, skill: str, log: Path | None, exit_code: int | None = None, log_tail: Iterable[str] = ()
    ) -> None:
        self.skill = skill
        self.exit_code = exit_code
        self.log = log
        self.log_tail = tuple(log_tail)
        text = f"skill {skill!r} {what}"
        text += f"; its last words: {' | '.join(self.log_tail)}" if self.log_tail else ""
        text += f" (log: {log})" if log else ""
        super().__init__(text)

    def code(self) -> grpc.StatusCode:
        """Return UNAVAILABLE."""
        return grpc.StatusCode.UNAVAILABLE

    def details(self) -> str:
        """Return the text of the error."""
        return str(self)

    def trailing_metadata(self) -> tuple[Any, ...]:
        """Return nothing, as no call was made."""
        return ()


class SkillStartTimeoutError(SkillStartError):
    """The local server of a skill was not ready in time."""

    retryable = True


class SkillRestartLimitError(SkillStartError):
    """The local server of a skill ended too often in a short time; it is not restarted for now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldViolation:
    """One field of a request that the skill refused (google.rpc.BadRequest)."""

    field: str
    """The field's path, for example `temperature` or `messages[2].role`."""
    description: str
    """What is wrong with it, and the allowed range."""


class CallError(SaraiError, grpc.RpcError):
    """A call to a skill failed. Also a `grpc.RpcError`, with `code()` and `details()`.

    Attributes:
        skill: Name of the skill.
        target: Address that was called.
        retry_after_s: Wait that the skill asks for, seconds; None if it asks for none.
        field_violations: Fields that the skill refused.
        reason: Reason that the skill gives, for example `DRAINING` (google.rpc.ErrorInfo); empty if it gives none.
    """

    advice: ClassVar[str] = ""
    """What to do; `{skill}` stands for the name of the skill."""

    def __init__(
        self,
        *,
        code: grpc.StatusCode,
        details: str,
        skill: str,
        target: str,
        retry_after_s: float | None = None,
        field_violations: tuple[FieldViolation, ...] = (),
        reason: str = "",
        trailing_metadata: tuple[tuple[str, str | bytes], ...] = (),
    ) -> None:
        self.skill = skill
        self.target = target
        self.retry_after_s = retry_after_s
        self.field_violations = field_violations
        self.reason = reason
        self._code = code
        self._details = details
        self._trailing_metadata = trailing_metadata
        super().__init__(self._text())

    def _text(self) -> str:
        said = one_line(self._details) or "no details"
        new = [v for v in self.field_violations if v.description not in self._details or v.field not in self._details]
        fields = "; ".join(one_line(f"{v.field}: {v.description}") for v in new)
        said = f"{said} [{fields}]" if fields else said
        advice = self._advice() if self.retry_after_s is None else f"try again in {self.retry_after_s:.3g} s"
        where = f"skill {self.skill!r} at {self.target}"
        return f"{where}: {self._code.name}: {said}" + (f" ({advice})" if advice else "")

    def _advice(self) -> str:
        return self.advice.format(skill=self.skill)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self}>"

    def code(self) -> grpc.StatusCode:
        """Return the gRPC status code."""
        return self._code

    def details(self) -> str:
        """Return the message of the skill or of gRPC."""
        return self._details

    def trailing_metadata(self) -> tuple[tuple[str, str | bytes], ...]:  # type: ignore[override]  # its type is private
        """Return the trailing metadata of the call, empty if none came."""
        return self._trailing_metadata


class InvalidRequestError(CallError):
    """The skill refused the request."""

    caller_fault = True
    advice = "change the request"


class RequestTooLargeError(InvalidRequestError):
    """The request or the answer is larger than a message may be."""

    advice = "send less, or ask for less"


class UnknownImageError(InvalidRequestError):
    """The request names an image by its hash alone, and the replica does not have its bytes (any more)."""

    advice = "send its bytes, as `data`: where a hash is enough, the client sends only that"


class NoImagesError(InvalidRequestError):
    """The request has images, and the replica reads none: its model reads text alone, or it has too little memory."""

    advice = "serve a model that reads images, with enough memory, or ask without images"


class NotKeptError(CallError):
    """The request asks for a kept answer alone (`CACHE_MODE_ONLY`), and the replica has none."""

    advice = "ask without CACHE_MODE_ONLY, and it is computed"


class AccessDeniedError(CallError):
    """The skill does not admit this caller."""

    caller_fault = True
    advice = "check the credentials"


class OverloadedError(CallError):
    """The skill has more to do than it can queue."""

    retryable = True
    advice = "try again later, or start more replicas: `sarai up {skill} --scale 2`"


class UnavailableError(CallError):
    """No server answers at the target, or the replica is shutting down."""

    retryable = True
    advice = "`sarai serve {skill}` starts it, `sarai up {skill}` does in a container, `sarai skills` shows what runs"

    def _advice(self) -> str:
        # A reason comes from a server: it runs, but is loading or draining, or has lost its engine.
        return f"`sarai health {self.skill}` says how it is" if self.reason else super()._advice()


class DeadlineError(CallError):
    """The deadline of the call has passed."""

    retryable = True
    advice = "give it a longer timeout"


class CallCancelledError(CallError):
    """The call was cancelled."""


class UnsupportedError(CallError):
    """The server at the target does not implement the method."""

    advice = "check that the target is this skill, and of a version that fits: `sarai skills` shows both"


class SkillFailedError(CallError):
    """The skill itself failed."""

    advice = "see the skill's log: `sarai logs {skill}` shows that of its container"


_CODES = grpc.StatusCode

ERROR_OF_CODE: Mapping[grpc.StatusCode, type[CallError]] = MappingProxyType(
    {
        _CODES.CANCELLED: CallCancelledError,
        _CODES.UNKNOWN: SkillFailedError,
        _CODES.INVALID_ARGUMENT: InvalidRequestError,
        _CODES.DEADLINE_EXCEEDED: DeadlineError,
        _CODES.NOT_FOUND: InvalidRequestError,
        _CODES.ALREADY_EXISTS: InvalidRequestError,
        _CODES.PERMISSION_DENIED: AccessDeniedError,
        _CODES.RESOURCE_EXHAUSTED: OverloadedError,
        _CODES.FAILED_PRECONDITION: InvalidRequestError,
        _CODES.ABORTED: UnavailableError,
        _CODES.OUT_OF_RANGE: InvalidRequestError,
        _CODES.UNIMPLEMENTED: UnsupportedError,
        _CODES.INTERNAL: SkillFailedError,
        _CODES.UNAVAILABLE: UnavailableError,
        _CODES.DATA_LOSS: SkillFailedError,
        _CODES.UNAUTHENTICATED: AccessDeniedError,
    }
)
"""The error class of each code except OK."""
