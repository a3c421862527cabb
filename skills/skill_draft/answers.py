"""Convert what the engine sends to wire messages: pieces to chunks, endings to answers."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

from skills import skills_pb2

from .engine.messages import Done, Ending, Image, Piece, Progress, Ready, TokenLogprob
from .flight import Flight


def chunk(piece: Piece | Progress) -> skills_pb2.GenChunk:
    """Convert a piece, or the progress before the first one, to a chunk."""
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


def answer(flight: Flight, done: Done, ready: Ready, *, ram_bytes: int) -> skills_pb2.GenResp:
    """Return the whole answer of a call."""
    request, now = flight.request, time.monotonic()
    first, *others = candidates = [_candidate(ending) for ending in done.endings]
    begun = flight.first_token_at or now
    writing_s = (flight.last_token_at or now) - begun
    written = flight.written
    speed = (written - 1) / writing_s if written > 1 and writing_s > 0 else written / max(1e-6, now - request.arrived)
    continued = sum(len(tokens.token_ids) for tokens in request.so_far)
    return skills_pb2.GenResp(
        text=first.text,
        tokens_generated=continued + written,
        continued_tokens=continued,
        tokens_per_second=speed,
        latency_ms=(now - request.arrived) * 1000,
        ram_mb=ram_bytes / 1e6,
        finish_reason=first.finish_reason,
        prompt_tokens=flight.admitted.prompt_tokens if flight.admitted else 0,
        image_tokens=sum(part.n_tokens for turn in request.turns for part in turn.parts if isinstance(part, Image)),
        cached_tokens=flight.admitted.cached_tokens if flight.admitted else 0,
        queue_ms=flight.admitted.queue_s * 1000 if flight.admitted else 0,
        time_to_first_token_ms=(begun - request.arrived) * 1000,
        mean_logprob=first.mean_logprob,
        model=ready.model,
        candidates=candidates if others else (),
        token_ids=first.token_ids,
        token_logprobs=first.token_logprobs,
        top_logprobs=first.top_logprobs,
        seed=request.sampling.seed,
        lookup_tokens=done.lookup_tokens,
        lookup_accepted=done.lookup_accepted,
        numerics=ready.numerics,
    )


def _candidate(ending: Ending) -> skills_pb2.Candidate:
    known = [value for value in ending.tokens.logprobs if not math.isnan(value)]
    return skills_pb2.Candidate(
        text=ending.text,
        finish_reason=skills_pb2.FinishReason.ValueType(int(ending.reason)),
        token_ids=ending.tokens.token_ids,
        token_logprobs=ending.tokens.logprobs,
        top_logprobs=[skills_pb2.TopLogprobs(tokens=_tokens(place)) for place in ending.tokens.top],
        mean_logprob=math.fsum(known) / len(known) if known else 0.0,
    )


def _tokens(place: Sequence[TokenLogprob]) -> list[skills_pb2.TokenLogprob]:
    return [skills_pb2.TokenLogprob(token_id=t.token_id, text=t.text, logprob=t.logprob) for t in place]
