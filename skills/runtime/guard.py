"""Guarantees for every call of every skill, whatever its method does.

Bytes that are not a message are INVALID_ARGUMENT, an exception is INTERNAL with its text in the log only, and no status
is larger than clients accept.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

import grpc

from .status import RefusedError, abort, bounded, bounded_metadata

log = logging.getLogger("sarai.runtime")


class GuardInterceptor(grpc.aio.ServerInterceptor):
    """Wraps every method. It goes before all other interceptors, so that it bounds their statuses too."""

    def __init__(self) -> None:
        self._guarded: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Wrap the method that was called, with all other interceptors, at its first call."""
        name = handler_call_details.method
        if (guarded := self._guarded.get(name)) is None and (handler := await continuation(handler_call_details)):
            guarded = self._guarded[name] = _guarded(handler, name)
        return guarded


def _guarded(handler: Any, name: str) -> grpc.RpcMethodHandler[Any, Any]:
    kind = "_".join("stream" if s else "unary" for s in (handler.request_streaming, handler.response_streaming))
    method = getattr(handler, kind)
    wrap = _pieces if inspect.isasyncgenfunction(method) else _answer
    made: grpc.RpcMethodHandler[Any, Any] = getattr(grpc, f"{kind}_rpc_method_handler")(
        wrap(method, _messages if handler.request_streaming else _message, name),
        request_deserializer=_reader(handler.request_deserializer),
        response_serializer=handler.response_serializer,
    )
    return made


def _answer(method: Any, read: Callable[[Any], Any], name: str) -> Any:
    async def call(request: Any, context: Any) -> Any:
        context = _BoundedContext(context)
        async with _statuses(context, name):
            return await method(read(request), context)
        raise AssertionError("a call ends with an answer or a status")

    return call


def _pieces(method: Any, read: Callable[[Any], Any], name: str) -> Any:
    async def call(request: Any, context: Any) -> AsyncIterator[Any]:
        context = _BoundedContext(context)
        async with _statuses(context, name), aclosing(method(read(request), context)) as pieces:
            async for piece in pieces:
                yield piece

    return call


@asynccontextmanager
async def _statuses(context: Any, method: str) -> AsyncIterator[None]:
    """Turn an exception inside into a status."""
    try:
        yield
    except RefusedError as refused:
        await abort(
            context, refused.code, str(refused),
            field=refused.field, retry_after_s=refused.retry_after_s, reason=refused.reason, missing=refused.missing,
        )  # fmt: skip
    except grpc.aio.AbortError:
        raise  # the status is set already
    except Exception as error:
        log.exception("%s failed", method)
        await abort(context, grpc.StatusCode.INTERNAL, f"{type(error).__name__}: the skill's log says more")


# --- requests ---


class _Unreadable:
    """Stands for bytes that are not a message: an exception in a deserializer would be UNKNOWN, with Python's text."""

    def __init__(self, message: str) -> None:
        self.message = message


def _reader(deserialize: Callable[[bytes], Any] | None) -> Callable[[bytes], Any] | None:
    if deserialize is None:
        return None

    def read(data: bytes) -> Any:
        try:
            return deserialize(data)
        except Exception:  # noqa: BLE001 - whatever the library raises, the bytes are the caller's
            descriptor = getattr(getattr(deserialize, "__self__", None), "DESCRIPTOR", None)
            return _Unreadable(getattr(descriptor, "full_name", "message that this method takes"))

    return read


def _message(request: Any) -> Any:
    if isinstance(request, _Unreadable):
        raise RefusedError(f"the request is no {request.message}: its bytes cannot be read as one")
    return request


async def _messages(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for request in requests:
        yield _message(request)


# --- statuses ---


class _BoundedContext:
    """The context of a call, with a bound on the size of its status."""

    def __init__(self, context: Any) -> None:
        self._context = context

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Any = ()) -> None:
        await self._context.abort(code, bounded(details), bounded_metadata(trailing_metadata))

    def set_details(self, details: str) -> None:
        self._context.set_details(bounded(details))

    def set_trailing_metadata(self, trailing_metadata: Any) -> None:
        self._context.set_trailing_metadata(bounded_metadata(trailing_metadata))
