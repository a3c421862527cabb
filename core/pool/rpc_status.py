"""Convert a failed gRPC call to one of our errors, from its code, details, and `grpc-status-details-bin`."""

from __future__ import annotations

from typing import Any

from core.errors import ERROR_OF_CODE, CallError, FieldViolation, OverloadedError, RequestTooLargeError
from core.rpc import grpc

# gRPC's text when a stopping server drops a call that it has not begun. Our own cancellations have different texts
# ("Locally cancelled by application!", "Channel closed!").
_DROPPED = "CANCELLED"
_NO_CONNECTION = ("failed to connect to all addresses", "DNS resolution failed", "empty address list")


def never_arrived(details: str) -> bool:
    """Return whether a call failed for lack of a connection, by gRPC's text, so that no replica has worked on it."""
    return details.startswith(_NO_CONNECTION)


def call_error(error: grpc.RpcError, *, skill: str, target: str) -> CallError:
    """Return our error for one of gRPC's, sync or async.

    Args:
        error: gRPC's error; `code()`, `details()` and `trailing_metadata()` are used if it has them.
        skill: The name of the skill that was called.
        target: The address that was called.
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
    from skills.wire import STATUS_DETAILS

    encoded = next((value for key, value in trailing if key == STATUS_DETAILS), None)
    if not isinstance(encoded, bytes):
        return None, (), ""
    # Imported here, as only failed calls need them.
    from google.protobuf.message import DecodeError
    from google.rpc import error_details_pb2, status_pb2

    retry_info, bad_request = error_details_pb2.RetryInfo(), error_details_pb2.BadRequest()
    info = error_details_pb2.ErrorInfo()
    try:
        for detail in status_pb2.Status.FromString(encoded).details:
            detail.Unpack(retry_info) or detail.Unpack(bad_request) or detail.Unpack(info)
    except DecodeError:
        return None, (), ""
    delay = retry_info.retry_delay
    retry_after_s = delay.seconds + delay.nanos / 1e9 if retry_info.HasField("retry_delay") else None
    violations = (FieldViolation(field=v.field, description=v.description) for v in bad_request.field_violations)
    return retry_after_s, tuple(violations), str(info.reason)


def _ask(error: grpc.RpcError, name: str) -> Any:
    method = getattr(error, name, None)
    return method() if callable(method) else None
