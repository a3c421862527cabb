"""Whatever a method does, its caller gets the intended status, in a size that it can receive."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from skills.runtime.drain import DrainInterceptor
from skills.runtime.guard import GuardInterceptor
from skills.runtime.status import MESSAGE_BYTES, RefusedError, abort, bounded
from skills.skills_pb2 import HealthReq as Req
from skills.skills_pb2 import HealthResp as Resp

KINDS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")
SIZES = (3_000, 16_000, 1_000_000)
LETTERS = ("x", "%", "ü", "漢", "🙂", "\n")
Do = Callable[[Any], Awaitable[None]]
"""What a method does with its context before it answers."""


class Service(grpc.GenericRpcHandler):
    """A method of each kind, which first calls `do` and then answers."""

    def __init__(self, do: Do) -> None:
        self.do = do

    async def unary_unary(self, _: Req, context: Any) -> Resp:
        await self.do(context)
        return Resp(status="well")

    async def unary_stream(self, _: Req, context: Any) -> AsyncIterator[Resp]:
        await self.do(context)
        yield Resp(status="well")

    async def stream_unary(self, requests: AsyncIterator[Req], context: Any) -> Resp:
        async for _ in requests:
            await self.do(context)
        return Resp(status="well")

    async def stream_stream(self, requests: AsyncIterator[Req], context: Any) -> AsyncIterator[Resp]:
        async for _ in requests:
            await self.do(context)
        yield Resp(status="well")

    async def written(self, _: Req, context: Any) -> None:
        """Stream in gRPC's other style, as the standard health service does."""
        await self.do(context)
        await context.write(Resp(status="well"))

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any]:
        kind = handler_call_details.method.rpartition("/")[2]
        make = getattr(grpc, f"{'unary_stream' if kind == 'written' else kind}_rpc_method_handler")
        handler: grpc.RpcMethodHandler[Any, Any] = make(
            getattr(self, kind), request_deserializer=Req.FromString, response_serializer=Resp.SerializeToString
        )
        return handler


@contextlib.asynccontextmanager
async def serving(do: Do, *interceptors: grpc.aio.ServerInterceptor) -> AsyncIterator[grpc.aio.Channel]:
    server = grpc.aio.server(interceptors=[GuardInterceptor(), *interceptors])
    server.add_generic_rpc_handlers((Service(do),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield channel
    finally:
        await server.stop(None)


async def call(channel: grpc.aio.Channel, kind: str, data: bytes = b"") -> str:
    """Call a method; return the status in its answer, or raise `AioRpcError`."""
    make = getattr(channel, "unary_stream" if kind == "written" else kind)
    method = make(f"/test/{kind}", response_deserializer=Resp.FromString)
    rpc = method([data] if kind.startswith("stream") else data, timeout=20)
    if kind.endswith("unary"):
        return str((await rpc).status)
    return "".join([answer.status async for answer in rpc])


async def well(_: Any) -> None:
    """Do nothing, so that the call succeeds."""


def failure(do: Do, kind: str, data: bytes = b"") -> grpc.aio.AioRpcError:
    """Return the error of a call, and check that the next call, in which nothing goes wrong, succeeds."""

    async def run() -> grpc.aio.AioRpcError:
        doing = [do]

        async def once(context: Any) -> None:
            await (doing.pop() if doing else well)(context)

        async with serving(once) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await call(channel, kind, data)
            doing.clear()
            assert await call(channel, kind) == "well"
            return failed.value

    return asyncio.run(run())


def details_of(error: grpc.aio.AioRpcError) -> status_pb2.Status:
    return status_pb2.Status.FromString(dict(error.trailing_metadata())["grpc-status-details-bin"])


@pytest.mark.parametrize("kind", [*KINDS, "written"])
def test_bytes_that_are_no_message_are_the_callers_fault(kind: str) -> None:
    error = failure(well, kind, b"\xff\xff\xff")
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "HealthReq" in str(error.details())


@pytest.mark.parametrize("kind", [*KINDS, "written"])
def test_words_of_an_exception_stay_in_the_log(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    async def fail(_: Any) -> None:
        raise ValueError("secret")

    error = failure(fail, kind)
    assert (error.code(), error.details()) == (grpc.StatusCode.INTERNAL, "ValueError: the skill's log says more")
    assert "secret" in caplog.text


@pytest.mark.parametrize("letter", LETTERS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["unary_unary", "unary_stream"])
def test_a_long_refusal_arrives_as_what_it_is(kind: str, size: int, letter: str) -> None:
    text = f"begin {letter * (size // len(letter.encode()))} end"

    async def refuse(context: Any) -> None:
        code = grpc.StatusCode.INVALID_ARGUMENT
        await abort(context, code, text, field="field" + letter * 1000, retry_after_s=1.5)

    error = failure(refuse, kind)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT, error
    details = details_of(error)
    bad, retry = error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
    assert details.details[0].Unpack(bad)
    assert details.details[1].Unpack(retry)
    (violation,) = bad.field_violations
    assert violation.field.startswith("field")
    assert (violation.description[:6], violation.description[-4:]) == ("begin ", " end")
    assert error.details() == details.message == f"{violation.field}: {violation.description}"
    assert retry.retry_delay.seconds == 1


def ways(text: str) -> dict[str, Do]:
    """Return every way for a method to end a call with a text."""

    async def gives_up(context: Any) -> None:
        await context.abort(grpc.StatusCode.FAILED_PRECONDITION, text, (("more-bin", text.encode()),))

    async def refuses(_: Any) -> None:
        raise RefusedError(text, code=grpc.StatusCode.FAILED_PRECONDITION, field=text)

    async def sets(context: Any) -> None:
        context.set_code(grpc.StatusCode.FAILED_PRECONDITION)
        context.set_details(text)
        context.set_trailing_metadata((("more-bin", text.encode()),))

    return {"gives up": gives_up, "refuses": refuses, "sets": sets}


@pytest.mark.parametrize("letter", LETTERS)
@pytest.mark.parametrize("way", list(ways("")))
def test_a_long_text_arrives_whichever_way_a_call_is_ended(way: str, letter: str) -> None:
    error = failure(ways(f"begin {letter * 100_000}")[way], "unary_unary")
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION, error
    assert "begin" in str(error.details())


def test_a_draining_server_says_so_to_bytes_of_any_kind() -> None:
    async def run() -> None:
        drain = DrainInterceptor()
        async with serving(well, drain) as channel:
            drain.refuse()
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call(channel, "unary_unary")
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE

    asyncio.run(run())


@pytest.mark.parametrize("letter", LETTERS)
def test_a_cut_text_is_whole_characters_of_both_ends(letter: str) -> None:
    for size in range(MESSAGE_BYTES - 8, MESSAGE_BYTES + 8):
        text = f"a{letter * size}z"
        short = bounded(text)
        assert len(short.encode()) <= MESSAGE_BYTES
        assert set(short) <= {"a", "z", letter, " ", "…"}
        assert (short[0], short[-1]) == ("a", "z")
    assert bounded("\ud800 half a character") == "? half a character"
