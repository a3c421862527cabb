"""gRPC errors that say what was wrong: a status code, a message, and details that a program can read."""

from __future__ import annotations

from typing import NoReturn

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2


async def abort(
    context: grpc.aio.ServicerContext[object, object],
    code: grpc.StatusCode,
    message: str,
    *,
    field: str = "",
    retry_after_s: float | None = None,
) -> NoReturn:
    """Ends a call with a status and, in `grpc-status-details-bin`, a google.rpc.Status.

    `field` becomes a google.rpc.BadRequest with that path, `retry_after_s` a google.rpc.RetryInfo.
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
    status = status_pb2.Status(code=code.value[0], message=message)
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    trailers = (("grpc-status-details-bin", status.SerializeToString()),) if details else ()
    await context.abort(code, message, trailers)
    raise AssertionError("abort does not return")
