"""The key of an answer: SHA-256 over all that determines its tokens, and nothing else.

With exact numerics the k-th token depends on the model, the prompt, the constraint, the candidate's seed, k and the
tokens before it. `max_tokens`, `stop` and the number of candidates only cut, so they are not in the key: calls that
differ in them share what is kept. The key is built field by field, each with its length, never from serialised
protobuf.
"""

from __future__ import annotations

import dataclasses
import hashlib
import struct
from collections.abc import Iterable, Iterator, Sequence

from skills import skills_pb2

from .engine.messages import ConstraintKind, Image, Request, Sampling, Turn
from .engine.seeds import candidate_seed
from .request_images import ImagePart

VERSION = b"sarai answer 2"
"""Changes with the form of the key, and with that of a kept answer."""

_CLOSES = (ConstraintKind.JSON_SCHEMA, ConstraintKind.JSON_OBJECT)

KEYED = frozenset(
    (
        "prompt", "system", "raw", "messages", "messages.role", "messages.content", "messages.token_ids",
        "messages.parts", "messages.parts.text", "messages.parts.image", "messages.parts.image.data",
        "messages.parts.image.sha256", "messages.parts.image.max_tokens",
        "temperature", "top_p", "top_k", "min_p", "seed", "repeat_penalty", "presence_penalty", "frequency_penalty",
        "grammar", "json_schema", "regex", "lark", "json_object", "allow_weaker_schema",
    )
)  # fmt: skip
"""Fields of a request that are in the key of every answer."""
UNKEYED = {
    "max_tokens": "cuts; in the key where tokens depend on it: with close_json, and with fast numerics",
    "stop": "cuts; in the key with fast numerics",
    "close_json": "in the key where it matters, which is in JSON",
    "num_candidates": "each candidate has a key of its own, by its seed",
    "top_logprobs": "less of what is kept is given; a request for more than is kept is a miss",
    "time_budget_ms": "cuts; what it has cut is not kept",
    "priority": "decides when, not what",
    "continuations": "the tokens are compared with those that are kept",
    "continuations.token_ids": "as above",
    "continuations.token_logprobs": "the caller gets back what it has given",
    "lookup": "decides how fast, not what",
    "cache": "says what to do with what is kept",
    "cache.mode": "as above",
    "cache.max_age_ms": "as above",
    "hard_deadline": "decides about errors, not about answers",
    "progress": "is told while there is no answer",
}
"""Fields that are not, each with its reason."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """What is in a key besides the request."""

    identity: bytes
    image_identity: bytes | None
    """In addition, if the request has images."""
    exact: bool
    n_ctx: int
    """Only in the key where tokens depend on limits."""


def repeats(message: skills_pb2.GenReq, sampling: Sampling, *, random_seed: bool = False) -> bool:
    """Return whether a request may come again, with the same answer: greedy or with a seed, and understood whole.

    Args:
        message: The request; it loses the fields that are not understood.
        sampling: How it is drawn.
        random_seed: Whether nobody has chosen its seed.
    """
    if sampling.temperature and (random_seed or not message.HasField("seed")):
        return False
    size = message.ByteSize()
    message.DiscardUnknownFields()
    return size == message.ByteSize()


def answer_keys(request: Request, images: Sequence[ImagePart], server: Server) -> tuple[bytes, ...]:
    """Return the key of each candidate's answer, 32 bytes.

    Args:
        request: A valid request, whose images may be unread.
        images: Its images as they came, in their order.
        server: What else determines the answer.
    """
    parts = tuple(_parts(request, images, server))
    common = hashlib.sha256(_numbers(len(parts), *map(len, parts)) + b"".join(parts))
    keys = []
    for candidate in range(request.num_candidates):
        key = common.copy()
        if request.sampling.temperature:
            key.update(candidate_seed(request.sampling.seed, candidate).to_bytes(8))
        if not server.exact:
            key.update(_numbers(candidate))
        keys.append(key.digest())
    return tuple(keys)


def depends_on_limits(request: Request, *, exact: bool) -> bool:
    """Return whether the tokens depend on where the answer is to end, so that only the very same limits give them."""
    return not exact or _closes(request)


def _closes(request: Request) -> bool:
    return bool(request.close_json and request.constraint and request.constraint.kind in _CLOSES)


def _parts(request: Request, images: Sequence[ImagePart], server: Server) -> Iterator[bytes]:
    yield VERSION
    yield server.identity
    yield request.tenant.encode()
    constraint = request.constraint
    yield _numbers(server.exact, request.raw is not None, len(request.turns), constraint is not None)
    yield (request.raw or "").encode()
    left = iter(images)
    for turn in request.turns:
        yield from _turn(turn, left)
    yield (server.image_identity or b"") if images else b""
    yield _sampling(request.sampling)
    if constraint:
        yield constraint.kind.value.encode()
        yield constraint.text.encode()
        yield _numbers(constraint.allow_weaker)
    if depends_on_limits(request, exact=server.exact):
        yield _numbers(request.max_tokens, request.close_json, server.n_ctx)
    if not server.exact:
        yield _numbers(request.num_candidates, request.top_logprobs)
        yield from map(str.encode, request.stop)


def _turn(turn: Turn, images: Iterator[ImagePart]) -> Iterator[bytes]:
    yield turn.role.encode()
    yield turn.content.encode()
    yield _numbers(len(turn.parts), *turn.token_ids)
    for part in turn.parts:
        if isinstance(part, Image):
            image = next(images)
            yield b"image" + _numbers(image.max_tokens) + (image.sha256 or hashlib.sha256(image.data).digest())
        else:
            yield b"text" + part.encode()


def _sampling(sampling: Sampling) -> bytes:
    """Return what of the sampling matters: of a greedy one, the penalties alone. -0 is 0."""
    values = [sampling.repeat_penalty, sampling.presence_penalty, sampling.frequency_penalty]
    if sampling.temperature:
        values += (sampling.temperature, sampling.top_k, sampling.top_p, sampling.min_p)
    return struct.pack(f">{len(values)}d", *(value + 0.0 for value in values))


def _numbers(*values: int) -> bytes:
    return struct.pack(f">{len(values)}q", *values)


def file_bytes(images: Iterable[ImagePart]) -> int:
    """Return how many bytes have to be hashed for the key, which tells whether that takes long."""
    return sum(len(image.data) for image in images if not image.sha256)
