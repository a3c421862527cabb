"""Draining: new calls are turned away, running ones finish."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc

from .status import abort

# Calls that only look at the server go on, and nobody waits for them.
_BYSTANDERS = ("/grpc.health.", "/grpc.reflection.")


class DrainInterceptor(grpc.aio.ServerInterceptor):
    """Counts the running calls and refuses new ones once `drain` has begun."""

    def __init__(self, bystanders: tuple[str, ...] = ()) -> None:
        """`bystanders` are further methods, like `/SkillsService/Health`, that are neither counted nor refused."""
        self._bystanders = _BYSTANDERS + bystanders
        self._running = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self.draining = False

    async def drain(self, grace_s: float) -> bool:
        """Refuses new calls and waits for the running ones; False if some are still running after the grace."""
        self.draining = True
        try:
            await asyncio.wait_for(self._idle.wait(), grace_s)
        except TimeoutError:
            return False
        return True

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Wraps the method that was called."""
        handler = await continuation(handler_call_details)
        if handler is None or handler_call_details.method.startswith(self._bystanders):
            return handler
        codecs = {
            "request_deserializer": handler.request_deserializer,
            "response_serializer": handler.response_serializer,
        }
        if handler.unary_unary:
            return grpc.unary_unary_rpc_method_handler(self._unary(handler.unary_unary), **codecs)
        if handler.unary_stream:
            return grpc.unary_stream_rpc_method_handler(self._stream(handler.unary_stream), **codecs)
        return handler

    def _unary(self, method: Any) -> Any:
        async def call(request: Any, context: Any) -> Any:
            await self._enter(context)
            try:
                return await method(request, context)
            finally:
                self._exit()

        return call

    def _stream(self, method: Any) -> Any:
        async def call(request: Any, context: Any) -> AsyncIterator[Any]:
            await self._enter(context)
            try:
                async for response in method(request, context):
                    yield response
            finally:
                self._exit()

        return call

    async def _enter(self, context: Any) -> None:
        if self.draining:
            await abort(context, grpc.StatusCode.UNAVAILABLE, "this replica is shutting down: call another one")
        self._running += 1
        self._idle.clear()

    def _exit(self) -> None:
        self._running -= 1
        if not self._running:
            self._idle.set()
