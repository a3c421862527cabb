"""The client of our own server."""

from __future__ import annotations

import time

import grpc

from bench.wire import Answer, Ask, Turn
from skills import skills_pb2, skills_pb2_grpc, types_pb2

TIMEOUT_S = 300.0


class GrpcClient:
    """A client of the draft skill's server."""

    def __init__(self, port: int) -> None:
        self._channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
        self._stub = skills_pb2_grpc.SkillsServiceStub(self._channel)

    async def ask(self, request: Ask, answer: Answer | None = None) -> Answer:
        """Send a request and read the answer as it is streamed."""
        message = skills_pb2.GenReq(
            messages=[_message(turn) for turn in request.turns],
            max_tokens=request.max_tokens,
            temperature=request.temperature,
            num_candidates=request.num_candidates,
            seed=request.seed,
        )
        if request.json_schema:
            message.json_schema = request.json_schema
        answer = answer or Answer(start=0.0)
        answer.start = time.perf_counter()
        async for chunk in self._stub.GenerateStream(message, timeout=TIMEOUT_S):
            answer.times += [time.perf_counter()] * len(chunk.token_ids)
            if chunk.candidate == 0:
                answer.text += chunk.text
                answer.token_ids += tuple(chunk.token_ids)
            if chunk.HasField("result"):
                answer.num_tokens = chunk.result.tokens_generated
                answer.prompt_tokens, answer.cached_tokens = chunk.result.prompt_tokens, chunk.result.cached_tokens
        answer.end = time.perf_counter()
        return answer

    async def close(self) -> None:
        """Close the connection."""
        await self._channel.close()


def _message(turn: Turn) -> types_pb2.Message:
    if not turn.images:
        return types_pb2.Message(role=turn.role, content=turn.content, token_ids=turn.token_ids)
    parts = [types_pb2.Part(image=types_pb2.Image(data=data)) for data in turn.images]
    return types_pb2.Message(role=turn.role, parts=[*parts, types_pb2.Part(text=turn.content)])
