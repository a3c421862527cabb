"""`SkillsService` over a function of the skill's author: a request goes in, text comes out.

`serve_text("shout", lambda request: request.prompt.upper(), port=50071, version="0.1.0")` is a whole server.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Sequence
from contextlib import aclosing
from typing import Protocol

import grpc

from skills import skills_pb2, skills_pb2_grpc, types_pb2

from .pieces import Pieces
from .program import run_server
from .settings import WorkerSettings
from .skill import Context, WorkerSkill
from .status import RefusedError
from .turns import in_text


class Answer(Protocol):
    """Answers a request, in one piece or several. Called concurrently in threads, so it may take its time.

    Turns of a conversation have their text in `content`; anything that cannot be read as text is refused beforehand.

    It raises `RefusedError` for what the caller can correct. Any other exception is INTERNAL, and in the log.
    """

    def __call__(self, request: skills_pb2.GenReq, /) -> str | Iterable[str]:
        """Return the text, or its pieces."""


def serve_text(name: str, answer: Answer | type[Answer], *, port: int, version: str) -> int:
    """Run the server of a skill that answers with text, and return the process's exit code.

    Args:
        name: the skill's name; its variables are `SKILL_<NAME>_…`.
        answer: the function, or a class whose instance is called. The instance is made once, in a thread, while Health
            reports LOADING: it loads what it needs there.
        port: where it listens on 127.0.0.1 by default.
        version: the skill's version, for Health.
    """

    def make(settings: WorkerSettings) -> TextSkill:
        return TextSkill(settings, answer, name=name, version=version)

    return run_server(make, WorkerSettings, name=name, port=port)


class TextSkill(WorkerSkill, skills_pb2_grpc.SkillsServiceServicer):
    """`SkillsService` from a function."""

    services: Sequence[str] = ("SkillsService",)

    def __init__(self, settings: WorkerSettings, answer: Answer | type[Answer], *, name: str, version: str) -> None:
        super().__init__(settings, name=name, version=version)
        self._given = answer
        self._answer: Answer | None = None

    def register(self, server: grpc.aio.Server) -> None:
        """Add `SkillsService`."""
        skills_pb2_grpc.add_SkillsServiceServicer_to_server(self, server)

    async def prepare(self) -> None:
        """Make the author's object, if a class was given."""
        given = self._given
        self._answer = await asyncio.to_thread(given) if isinstance(given, type) else given

    async def Generate(self, request: skills_pb2.GenReq, context: Context) -> skills_pb2.GenResp:  # noqa: N802 - gRPC's
        """Answer in one message."""
        begin_s = time.monotonic()
        async with self.call(context), aclosing(self._pieces(request)) as pieces:
            return self._whole([piece async for piece in pieces], begin_s)
        raise AssertionError("a call ends with an answer or a status")

    async def GenerateStream(  # noqa: N802 - gRPC's name
        self, request: skills_pb2.GenReq, context: Context
    ) -> AsyncIterator[skills_pb2.GenChunk]:
        """Answer in the function's own pieces; the last chunk has what is known at the end."""
        begin_s, texts, out = time.monotonic(), [], Pieces(context, request)
        async with self.call(context), aclosing(self._pieces(request)) as pieces:
            async for text in pieces:
                texts.append(text)
                for chunk in out.put(skills_pb2.GenChunk(text=text)):
                    yield chunk
            for chunk in out.put(skills_pb2.GenChunk(result=self._whole(texts, begin_s))):
                yield chunk

    async def ClearCache(  # noqa: N802 - gRPC's name
        self,
        request: types_pb2.ClearCacheReq,  # noqa: ARG002 - it has nothing to say
        context: Context,
    ) -> types_pb2.ClearCacheResp:
        """Refuse: a function of any kind may give other answers each time, so none is kept."""
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "this skill keeps no answers")
        raise AssertionError("abort raises")

    async def _pieces(self, request: skills_pb2.GenReq) -> AsyncGenerator[str, None]:
        if not request.prompt and not request.messages:
            raise RefusedError("there is neither a prompt nor a message", field="prompt")
        request = in_text(request)
        assert self._answer is not None, "no call comes through before it is there"
        async with self.work.slot() as slot:
            answer = await slot.run(self._answer, request)
            if isinstance(answer, str):
                yield answer
                return
            pieces = iter(answer)
            # One piece at a time, so that the function waits for a slow caller, and ends if the caller has gone.
            while (piece := await slot.run(_next, pieces)) is not None:
                yield piece

    def _whole(self, pieces: list[str], begin_s: float) -> skills_pb2.GenResp:
        return skills_pb2.GenResp(
            text="".join(pieces),
            latency_ms=(time.monotonic() - begin_s) * 1000,
            finish_reason=skills_pb2.FINISH_REASON_STOP,
            model=f"{self.name} {self.version}",
        )


def _next(pieces: Iterator[str]) -> str | None:
    return next(pieces, None)
