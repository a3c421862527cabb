"""gRPC errors that say what was wrong: a status code, a message, and details that a program can read."""

from __future__ import annotations

import enum
from typing import NoReturn

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

DOMAIN = "sarai"
"""Of all reasons, as google.rpc.ErrorInfo wants it."""


class Reason(enum.StrEnum):
    """Why a replica is UNAVAILABLE, for callers that look for another one (google.rpc.ErrorInfo)."""

    DRAINING = "DRAINING"
    """It is going away. What it has sent of an answer can be continued elsewhere."""
    LOADING = "LOADING"
    """Its model is still loading."""
    ENGINE_GONE = "ENGINE_GONE"
    """It has no engine, and getting one has failed."""


class RefusedError(Exception):
    """A call ends with a status that its caller can do something about.

    Args:
        message: what is wrong.
        code: the status.
        field: the path of the request's field that it is about, for example `messages[2].role`.
        retry_after_s: when another try can help, seconds from now.
    """

    def __init__(
        self,
        message: str,
        *,
        code: grpc.StatusCode = grpc.StatusCode.INVALID_ARGUMENT,
        field: str = "",
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code, self.field, self.retry_after_s = code, field, retry_after_s


async def abort(
    context: grpc.aio.ServicerContext[object, object],
    code: grpc.StatusCode,
    message: str,
    *,
    field: str = "",
    retry_after_s: float | None = None,
    reason: Reason | None = None,
) -> NoReturn:
    """Ends a call with a status and, in `grpc-status-details-bin`, a google.rpc.Status.

    `field` becomes a google.rpc.BadRequest with that path, `retry_after_s` a google.rpc.RetryInfo, `reason` a
    google.rpc.ErrorInfo.
    """
    details = []
    if field:
        violation = error_details_pb2.BadRequest.FieldViolation(field=field, description=message)
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
        message = f"{field}: {message}"
    if retry_after_s is not None:
        delay = duration_pb2.Duration()
        delay.FromNanoseconds(int(retry_after_s * 1e9))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    if reason is not None:
        details.append(error_details_pb2.ErrorInfo(reason=reason.value, domain=DOMAIN))
    status = status_pb2.Status(code=code.value[0], message=message)
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    trailers = (("grpc-status-details-bin", status.SerializeToString()),) if details else ()
    await context.abort(code, message, trailers)
    raise AssertionError("abort does not return")
