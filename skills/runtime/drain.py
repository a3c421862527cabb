"""Draining: running calls finish, new ones are refused, and those that take too long are handed over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NoReturn

import grpc

from skills.wire import Reason

from .status import abort

# These methods only look at the server: they are never refused, and nothing waits for them.
_EXEMPT = ("/grpc.health.", "/grpc.reflection.")


class DrainInterceptor(grpc.aio.ServerInterceptor):
    """Counts the running calls; on request it refuses new ones and ends those that run."""

    def __init__(self, exempt: tuple[str, ...] = ()) -> None:
        """`exempt` are more methods, like `/SkillsService/Health`, that are neither counted nor refused."""
        self._exempt = _EXEMPT + exempt
        self._running = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._refusing = self._handing_over = False
        # One for each call that is waiting for its skill; the other calls are sending.
        self._patience: set[asyncio.Timeout] = set()

    def refuse(self) -> None:
        """Answer new calls from now on with UNAVAILABLE and the reason DRAINING."""
        self._refusing = True

    async def idle(self, timeout_s: float) -> bool:
        """Wait for the running calls to end. Return False if some are still running after `timeout_s` seconds."""
        try:
            await asyncio.wait_for(self._idle.wait(), timeout_s)
        except TimeoutError:
            return False
        return True

    def hand_over(self) -> int:
        """End the running calls in the same way, after sending what is there for them. Return how many there are."""
        self._handing_over = True
        for patience in self._patience:
            patience.reschedule(0)  # long ago
        return self._running

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Wrap the method that was called."""
        handler = await continuation(handler_call_details)
        if handler is None or handler_call_details.method.startswith(self._exempt):
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
                return await self._from_skill(method(request, context), context)
            finally:
                self._exit()

        return call

    def _stream(self, method: Any) -> Any:
        async def call(request: Any, context: Any) -> AsyncIterator[Any]:
            await self._enter(context)
            try:
                responses = method(request, context)
                while (response := await self._from_skill(anext(responses, None), context)) is not None:
                    yield response
            finally:
                self._exit()

        return call

    async def _from_skill(self, response: Awaitable[Any], context: Any) -> Any:
        """Wait for a response; once calls are handed over, take only what is there already."""
        patience = asyncio.timeout(0 if self._handing_over else None)
        self._patience.add(patience)
        try:
            async with patience:
                return await response
        except TimeoutError:
            if not patience.expired():  # the skill's own timeout
                raise
        finally:
            self._patience.discard(patience)
        return await _going_away(context)

    async def _enter(self, context: Any) -> None:
        if self._refusing:
            await _going_away(context)
        self._running += 1
        self._idle.clear()

    def _exit(self) -> None:
        self._running -= 1
        if not self._running:
            self._idle.set()


async def _going_away(context: Any) -> NoReturn:
    message = "this replica is going away: go on at another one"
    await abort(context, grpc.StatusCode.UNAVAILABLE, message, reason=Reason.DRAINING)
