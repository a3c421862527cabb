"""Convert a `GenReq` to a valid request for the engine, or refuse it with the wrong field and its range."""

from __future__ import annotations

import math
import secrets
import time
from typing import NamedTuple

from skills import skills_pb2
from skills.runtime.status import RefusedError
from skills.runtime.turns import UNKNOWN_PART, text_of

from .engine.messages import Constraint, ConstraintKind, Image, Priority, Request, Sampling, Tokens, Turn
from .request_images import UNREAD

ROLES = ("system", "user", "assistant")
MAX_STOPS, MAX_STOP_BYTES, MAX_CANDIDATES, MAX_TOP_LOGPROBS = 16, 256, 8, 20
MAX_PROMPT_BYTES = 1 << 20
MAX_CLOSE_TOKENS = 1024
MAX_TURNS = 1024
DEFAULT_MAX_TOKENS = 256


class _Range(NamedTuple):
    """The range of numbers that a field may have."""

    low: float
    high: float
    default: float
    above_low: bool = False

    def check(self, field: str, value: float) -> float:
        ok = math.isfinite(value) and self.low <= value <= self.high and not (self.above_low and value == self.low)
        if not ok:
            kind = "above" if self.above_low else "from"
            shown, low, high = (str(n) if isinstance(n, int) else f"{n:g}" for n in (value, self.low, self.high))
            raise RefusedError(f"is {shown}; it must be {kind} {low} to {high}", field=field)
        return value


_RANGES = {
    "temperature": _Range(0, 5, 0.7),
    "top_p": _Range(0, 1, 0.95, above_low=True),
    "top_k": _Range(0, 1_000_000, 40),
    "min_p": _Range(0, 1, 0.05),
    "repeat_penalty": _Range(0.1, 10, 1),
    "presence_penalty": _Range(-2, 2, 0),
    "frequency_penalty": _Range(-2, 2, 0),
    "num_candidates": _Range(1, MAX_CANDIDATES, 1),
}


def to_request(
    message: skills_pb2.GenReq, *, id_: int, n_ctx: int, deadline: float | None, hard_deadline: bool = False
) -> Request:
    """Validate a message and convert it. A request without a seed is given one.

    Args:
        message: the message as received.
        id_: the id for the request.
        n_ctx: context length of the model.
        deadline: the caller's deadline on the monotonic clock.
        hard_deadline: whether this server treats all deadlines as hard, regardless of the message.

    Raises:
        RefusedError: A field is invalid.
    """
    numbers = {name: _number(message, name) for name in _RANGES}
    max_tokens = message.max_tokens if message.HasField("max_tokens") else min(DEFAULT_MAX_TOKENS, n_ctx)
    _Range(1, n_ctx, 0).check("max_tokens", max_tokens)
    _Range(0, MAX_TOP_LOGPROBS, 0).check("top_logprobs", message.top_logprobs)
    _Range(0, 2**31 - 1, 0).check("time_budget_ms", message.time_budget_ms)
    now = time.monotonic()
    return Request(
        id=id_,
        turns=() if message.raw else _turns(message),
        raw=_raw(message) if message.raw else None,
        max_tokens=max_tokens,
        sampling=_sampling(message, numbers),
        stop=_stop(message),
        constraint=_constraint(message),
        close_json=int(_Range(0, MAX_CLOSE_TOKENS, 0).check("close_json", message.close_json)),
        num_candidates=int(numbers["num_candidates"]),
        top_logprobs=message.top_logprobs,
        priority=Priority.BATCH if message.priority == skills_pb2.PRIORITY_BATCH else Priority.INTERACTIVE,
        lookup=message.lookup if message.HasField("lookup") else True,
        arrived=now,
        deadline=deadline,
        hard_deadline=hard_deadline or message.hard_deadline,
        progress=message.progress,
        budget_end=now + message.time_budget_ms / 1000 if message.time_budget_ms else None,
        so_far=_so_far(message, int(numbers["num_candidates"])),
        keep=message.cache.mode != skills_pb2.CACHE_MODE_BYPASS,
    )


def _number(message: skills_pb2.GenReq, name: str) -> float:
    limits = _RANGES[name]
    present = message.HasField(name)  # type: ignore[arg-type]
    return limits.check(name, getattr(message, name)) if present else limits.default


def _sampling(message: skills_pb2.GenReq, numbers: dict[str, float]) -> Sampling:
    return Sampling(
        temperature=numbers["temperature"],
        top_k=int(numbers["top_k"]),
        top_p=numbers["top_p"],
        min_p=numbers["min_p"],
        seed=message.seed if message.HasField("seed") else secrets.randbits(32),
        repeat_penalty=numbers["repeat_penalty"],
        presence_penalty=numbers["presence_penalty"],
        frequency_penalty=numbers["frequency_penalty"],
    )


def _raw(message: skills_pb2.GenReq) -> str:
    if message.messages or message.system:
        raise RefusedError("goes with `prompt` alone, without `messages` or `system`", field="raw")
    return _text("prompt", message.prompt)


def _turns(message: skills_pb2.GenReq) -> tuple[Turn, ...]:
    if message.prompt and message.messages:
        raise RefusedError("is set and `messages` too: send one of them", field="prompt")
    if not message.messages:
        turns = [Turn(role="user", content=_text("prompt", message.prompt))]
    else:
        if len(message.messages) > MAX_TURNS:
            raise RefusedError(f"has {len(message.messages)} turns; at most {MAX_TURNS} are allowed", field="messages")
        turns = [_turn(i, turn) for i, turn in enumerate(message.messages)]
        texts = [part for turn in turns for part in (turn.content, *turn.parts) if isinstance(part, str)]
        _text("messages", "".join(texts), empty=any(turn.parts for turn in turns))
    if message.system:
        turns.insert(0, Turn(role="system", content=_text("system", message.system)))
    return tuple(turns)


def _turn(index: int, message: skills_pb2.Message) -> Turn:
    path = f"messages[{index}]"
    if message.role not in ROLES:
        raise RefusedError(f"is {message.role[:40]!r}; it must be one of {', '.join(ROLES)}", field=f"{path}.role")
    if message.token_ids and message.role != "assistant":
        raise RefusedError("are for turns of the assistant only", field=f"{path}.token_ids")
    if any(part.HasField("image") for part in message.parts):
        return Turn(role=message.role, parts=_parts(message, path))
    return Turn(role=message.role, content=text_of(message, path), token_ids=tuple(message.token_ids))


def _parts(message: skills_pb2.Message, path: str) -> tuple[str | Image, ...]:
    """Return the text and the images of a turn; of the images nothing is known yet."""
    if message.content:
        raise RefusedError("is set and `parts` too: send one of them", field=f"{path}.content")
    parts: list[str | Image] = []
    for i, part in enumerate(message.parts):
        match part.WhichOneof("kind"):
            case "text":
                parts.append(part.text)
            case "image":
                parts.append(UNREAD)
            case _:
                raise RefusedError(UNKNOWN_PART, field=f"{path}.parts[{i}]")
    return tuple(part for part in parts if part)


def _text(field: str, text: str, *, empty: bool = False) -> str:
    if not text and not empty:
        raise RefusedError(f"is empty; send 1 to {MAX_PROMPT_BYTES} bytes", field=field)
    size = len(text.encode())
    if size > MAX_PROMPT_BYTES:
        raise RefusedError(f"is {size} bytes; at most {MAX_PROMPT_BYTES} are allowed", field=field)
    return text


def _constraint(message: skills_pb2.GenReq) -> Constraint | None:
    name = message.WhichOneof("constraint")
    value = getattr(message, name) if name else ""
    if message.allow_weaker_schema and name != "json_schema":
        raise RefusedError("goes with `json_schema` alone", field="allow_weaker_schema")
    if not value:
        return None
    return Constraint(
        kind=ConstraintKind(name),
        text=value if isinstance(value, str) else "",
        allow_weaker=message.allow_weaker_schema,
    )


def _stop(message: skills_pb2.GenReq) -> tuple[str, ...]:
    if len(message.stop) > MAX_STOPS:
        raise RefusedError(f"has {len(message.stop)} strings; at most {MAX_STOPS} are allowed", field="stop")
    for i, stop in enumerate(message.stop):
        if not 1 <= len(stop.encode()) <= MAX_STOP_BYTES:
            raise RefusedError(f"must have 1 to {MAX_STOP_BYTES} bytes", field=f"stop[{i}]")
    return tuple(message.stop)


def _so_far(message: skills_pb2.GenReq, num_candidates: int) -> tuple[Tokens, ...]:
    if not message.continuations:
        return ()
    if len(message.continuations) != num_candidates:
        raise RefusedError(
            f"has {len(message.continuations)} entries for {num_candidates} candidates", field="continuations"
        )
    for i, entry in enumerate(message.continuations):
        if entry.token_logprobs and len(entry.token_logprobs) != len(entry.token_ids):
            raise RefusedError("must be as many as the tokens, or none", field=f"continuations[{i}].token_logprobs")
    return tuple(
        Tokens(token_ids=tuple(entry.token_ids), logprobs=tuple(entry.token_logprobs))
        for entry in message.continuations
    )
