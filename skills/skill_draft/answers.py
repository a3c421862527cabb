"""Convert what the engine sends to wire messages: pieces to chunks, endings to answers, failures to statuses."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import grpc

from skills import skills_pb2
from skills.runtime.status import RefusedError
from skills.wire import Reason

from .engine.messages import Done, Ending, Failed, FailureKind, Piece, Progress, TokenLogprob
from .flight import Flight

# The gRPC status code of each kind of failure.
CODES = {
    FailureKind.INVALID: grpc.StatusCode.INVALID_ARGUMENT,
    FailureKind.FULL: grpc.StatusCode.RESOURCE_EXHAUSTED,
    FailureKind.DEADLINE: grpc.StatusCode.DEADLINE_EXCEEDED,
    FailureKind.INTERNAL: grpc.StatusCode.INTERNAL,
    FailureKind.UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
}


def chunk(piece: Piece | Progress | skills_pb2.GenResp) -> skills_pb2.GenChunk:
    """Convert a piece, the progress before the first one, or the whole answer, to a chunk."""
    if isinstance(piece, skills_pb2.GenResp):
        return skills_pb2.GenChunk(result=piece)
    if isinstance(piece, Progress):
        progress = skills_pb2.Progress(
            queue_position=piece.place, expected_wait_s=piece.wait_s,
            prompt_tokens_read=piece.read, prompt_tokens=piece.prompt_tokens, images_to_encode=piece.images_to_encode,
        )  # fmt: skip
        return skills_pb2.GenChunk(progress=progress)
    return skills_pb2.GenChunk(
        text=piece.text,
        token_ids=piece.tokens.token_ids,
        token_logprobs=piece.tokens.logprobs,
        candidate=piece.candidate,
    )


def answer(
    flight: Flight, done: Done, *, model: str, numerics: str, image_tokens: int, ram_bytes: int
) -> skills_pb2.GenResp:
    """Return the whole answer of a call.

    Args:
        flight: What its caller has read.
        done: How it ended.
        model: The model's name.
        numerics: `exact` or `fast`.
        image_tokens: Tokens of its prompt that images take.
        ram_bytes: Memory of the replica's processes.
    """
    request, now = flight.request, time.monotonic()
    begun = flight.first_token_at or now
    writing_s = (flight.last_token_at or now) - begun
    continued = sum(len(tokens.token_ids) for tokens in request.so_far)
    written = max(0, sum(len(ending.tokens.token_ids) for ending in done.endings) - continued)
    speed = (written - 1) / writing_s if written > 1 and writing_s > 0 else written / max(1e-6, now - request.arrived)
    return skills_pb2.GenResp(
        **_content(done.endings[0]),
        tokens_generated=continued + written,
        continued_tokens=continued,
        tokens_per_second=speed,
        latency_ms=(now - request.arrived) * 1000,
        ram_mb=ram_bytes / 1e6,
        prompt_tokens=flight.admitted.prompt_tokens if flight.admitted else 0,
        image_tokens=image_tokens,
        cached_tokens=flight.admitted.cached_tokens if flight.admitted else 0,
        queue_ms=flight.admitted.queue_s * 1000 if flight.admitted else 0,
        time_to_first_token_ms=(begun - request.arrived) * 1000,
        model=model,
        candidates=[skills_pb2.Candidate(**_content(e)) for e in done.endings] if len(done.endings) > 1 else (),
        seed=request.sampling.seed,
        lookup_tokens=done.lookup_tokens,
        lookup_accepted=done.lookup_accepted,
        numerics=numerics,
    )


def _content(ending: Ending) -> dict[str, Any]:
    """Return the fields that an answer and a candidate have in common."""
    return {
        "text": ending.text,
        "finish_reason": int(ending.reason),
        "token_ids": ending.tokens.token_ids,
        "token_logprobs": ending.tokens.logprobs,
        "top_logprobs": [skills_pb2.TopLogprobs(tokens=_tokens(place)) for place in ending.tokens.top],
        "mean_logprob": _mean(ending.tokens.logprobs),
    }


def _mean(logprobs: Sequence[float]) -> float:
    """Return the mean of those that are known."""
    if math.isnan(total := math.fsum(logprobs)):
        return _mean([value for value in logprobs if not math.isnan(value)])
    return total / len(logprobs) if logprobs else 0.0


def _tokens(place: Sequence[TokenLogprob]) -> list[skills_pb2.TokenLogprob]:
    return [skills_pb2.TokenLogprob(token_id=t.token_id, text=t.text, logprob=t.logprob) for t in place]


def refused(failed: Failed) -> RefusedError:
    """Return the status of a call that got no answer."""
    return RefusedError(
        failed.message,
        code=CODES[failed.kind],
        field=failed.field,
        retry_after_s=failed.retry_after_s,
        reason=Reason.ENGINE_GONE if failed.kind is FailureKind.UNAVAILABLE else None,
    )
