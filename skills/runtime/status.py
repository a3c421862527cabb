"""gRPC errors that explain themselves: a status code, a message, and machine-readable details.

They are sent as metadata, of which clients accept 8 KiB; beyond that they see RESOURCE_EXHAUSTED instead. So every text
is bounded here. On the wire, a byte of a message can take three (percent-encoding), and one of the details 4/3.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import NoReturn

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from skills.wire import REASON_DOMAIN, STATUS_DETAILS, Reason

log = logging.getLogger("sarai.runtime")

MESSAGE_BYTES = 1024
"""Of a status, in UTF-8."""
_FIELD_BYTES = 256
_METADATA_BYTES = 4096


class RefusedError(Exception):
    """Ends a call with a status that its caller can act on.

    Args:
        message: What is wrong.
        code: The status code.
        field: The path of the request field to blame, for example `messages[2].role`.
        retry_after_s: When a retry can help, in seconds from now.
        reason: Why this replica is UNAVAILABLE.
        missing: Type and name of each resource that the request names and this replica does not have.
    """

    def __init__(
        self,
        message: str,
        *,
        code: grpc.StatusCode = grpc.StatusCode.INVALID_ARGUMENT,
        field: str = "",
        retry_after_s: float | None = None,
        reason: Reason | None = None,
        missing: Iterable[tuple[str, str]] = (),
    ) -> None:
        super().__init__(message)
        self.code, self.field, self.retry_after_s, self.reason = code, field, retry_after_s, reason
        self.missing = tuple(missing)


def bounded(text: str, most_bytes: int = MESSAGE_BYTES) -> str:
    """Return a text of at most `most_bytes` in UTF-8: of a longer one, its beginning and its end."""
    data = text.encode(errors="replace")
    if len(data) <= most_bytes:
        return data.decode()
    cut = " … ".encode()
    tail = most_bytes // 4
    return (data[: most_bytes - tail - len(cut)] + cut + data[-tail:]).decode(errors="ignore")


def bounded_metadata(metadata: Iterable[tuple[str, str | bytes]]) -> tuple[tuple[str, str | bytes], ...]:
    """Return the entries that fit in addition to a message, in their order."""
    kept: list[tuple[str, str | bytes]] = []
    left = _METADATA_BYTES
    for key, value in metadata or ():
        size = len(key) + len(value) * 4 // 3 + 32  # the overhead of an entry, as HTTP/2 counts it
        if size <= left:
            kept.append((key, value))
            left -= size
        else:
            log.warning("%s of a status has %d bytes: omitted", key, len(value))
    return tuple(kept)


async def abort(
    context: grpc.aio.ServicerContext[object, object],
    code: grpc.StatusCode,
    message: str,
    *,
    field: str = "",
    retry_after_s: float | None = None,
    reason: Reason | None = None,
    missing: Iterable[tuple[str, str]] = (),
) -> NoReturn:
    """End a call with a status and, in `grpc-status-details-bin`, a google.rpc.Status.

    `field` becomes a google.rpc.BadRequest with that path, `retry_after_s` a google.rpc.RetryInfo, `reason` a
    google.rpc.ErrorInfo, each of `missing` a google.rpc.ResourceInfo. Long messages and paths are shortened.
    """
    details: list[Message] = [
        error_details_pb2.ResourceInfo(resource_type=kind, resource_name=name) for kind, name in missing
    ]
    field = bounded(field, _FIELD_BYTES)
    message = bounded(message, MESSAGE_BYTES - _FIELD_BYTES - 2)
    if field:
        violation = error_details_pb2.BadRequest.FieldViolation(field=field, description=message)
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
        message = f"{field}: {message}"
    if retry_after_s is not None:
        delay = duration_pb2.Duration()
        delay.FromNanoseconds(int(retry_after_s * 1e9))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    if reason is not None:
        details.append(error_details_pb2.ErrorInfo(reason=reason.value, domain=REASON_DOMAIN))
    status = status_pb2.Status(code=code.value[0], message=message)
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    trailers = ((STATUS_DETAILS, status.SerializeToString()),) if details else ()
    await context.abort(code, message, trailers)
    raise AssertionError("abort does not return")
