"""Convert a failed gRPC call to one of our errors, from its code, details, and `grpc-status-details-bin`."""

from __future__ import annotations

import contextlib
from typing import Any

from core.errors import (
    ERROR_OF_CODE,
    CallError,
    FieldViolation,
    NoImagesError,
    NotKeptError,
    OverloadedError,
    RequestTooLargeError,
    UnknownImageError,
)
from core.rpc import grpc

# gRPC's text when a stopping server drops a call that it has not begun. Our own cancellations have different texts
# ("Locally cancelled by application!", "Channel closed!").
_DROPPED = "CANCELLED"
_NO_CONNECTION = ("failed to connect to all addresses", "DNS resolution failed", "empty address list")


def never_arrived(details: str) -> bool:
    """Return whether a call failed for lack of a connection, by gRPC's text, so that no replica has worked on it."""
    return details.startswith(_NO_CONNECTION)


def call_error(error: grpc.RpcError, *, skill: str, target: str, has_images: bool = False) -> CallError:
    """Return our error for one of gRPC's, sync or async.

    Args:
        error: gRPC's error; `code()`, `details()` and `trailing_metadata()` are used if it has them.
        skill: The name of the skill that was called.
        target: The address that was called.
        has_images: Whether the request had images.
    """
    code = _ask(error, "code") or grpc.StatusCode.UNKNOWN
    details = _ask(error, "details") or ""
    if code is grpc.StatusCode.CANCELLED and details == _DROPPED:
        code, details = grpc.StatusCode.UNAVAILABLE, "the server dropped the call as it stopped"
    trailing = tuple((key, value) for key, value in _ask(error, "trailing_metadata") or ())
    retry_after_s, violations, reason = rich_details(trailing)
    cls = ERROR_OF_CODE[code]
    if cls is OverloadedError and (violations or "larger than max" in details):
        # gRPC uses the code of a full queue for a message over the size limit, but waiting does not help there.
        cls = RequestTooLargeError
    if code is grpc.StatusCode.NOT_FOUND and missing_images(error):
        cls = UnknownImageError
    if code is grpc.StatusCode.NOT_FOUND and _is_not_kept(reason):
        cls = NotKeptError
    if code is grpc.StatusCode.FAILED_PRECONDITION and has_images:
        cls = NoImagesError
    return cls(
        code=code,
        details=details,
        skill=skill,
        target=target,
        retry_after_s=retry_after_s,
        field_violations=violations,
        reason=reason,
        trailing_metadata=trailing,
    )


def initial_metadata(error: grpc.RpcError) -> tuple[tuple[str, str | bytes], ...]:
    """Return the metadata that the server had sent before a call failed."""
    return tuple((key, value) for key, value in _ask(error, "initial_metadata") or ())


def rich_details(
    trailing: tuple[tuple[str, str | bytes], ...],
) -> tuple[float | None, tuple[FieldViolation, ...], str]:
    """Return a failed call's details: when to retry, which fields were refused, and the reason.

    Seconds (google.rpc.RetryInfo), fields (google.rpc.BadRequest) and the reason (google.rpc.ErrorInfo). Details that
    cannot be parsed are ignored, as they come from the peer and only supplement the code.
    """
    from google.rpc import error_details_pb2 as kinds

    retry_after_s, violations, reason = None, [], ""
    for detail in _details(trailing):
        match detail:
            case kinds.RetryInfo(retry_delay=delay):
                retry_after_s = delay.seconds + delay.nanos / 1e9
            case kinds.BadRequest(field_violations=refused):
                violations += [FieldViolation(field=each.field, description=each.description) for each in refused]
            case kinds.ErrorInfo():
                reason = detail.reason
    return retry_after_s, tuple(violations), reason


def missing_images(error: grpc.RpcError) -> frozenset[bytes]:
    """Return the hashes of the images whose bytes a server lacks (google.rpc.ResourceInfo); empty for other errors."""
    if _ask(error, "code") is not grpc.StatusCode.NOT_FOUND:
        return frozenset()
    from google.rpc.error_details_pb2 import ResourceInfo

    from skills.wire import IMAGE_RESOURCE

    hashes = set()
    for detail in _details(tuple(_ask(error, "trailing_metadata") or ())):
        if isinstance(detail, ResourceInfo) and detail.resource_type == IMAGE_RESOURCE:
            with contextlib.suppress(ValueError):
                hashes.add(bytes.fromhex(detail.resource_name))
    return frozenset(hashes)


def _is_not_kept(reason: str) -> bool:
    """Return whether a request asked for a kept answer alone and there is none."""
    from skills.wire import Reason

    return reason == Reason.NOT_KEPT


def _details(trailing: tuple[tuple[str, str | bytes], ...]) -> list[Any]:
    """Return the details of a failed call that have a meaning here; none if they cannot be parsed."""
    from skills.wire import STATUS_DETAILS

    encoded = next((value for key, value in trailing if key == STATUS_DETAILS), None)
    if not isinstance(encoded, bytes):
        return []
    # Imported here, as only failed calls need them.
    from google.protobuf.message import DecodeError
    from google.rpc import error_details_pb2 as kinds
    from google.rpc import status_pb2

    known = (kinds.RetryInfo, kinds.BadRequest, kinds.ErrorInfo, kinds.ResourceInfo)
    try:
        details = status_pb2.Status.FromString(encoded).details
        return [message for detail in details for kind in known if detail.Unpack(message := kind())]
    except DecodeError:
        return []


def _ask(error: grpc.RpcError, name: str) -> Any:
    method = getattr(error, name, None)
    return method() if callable(method) else None
