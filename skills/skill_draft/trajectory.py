"""What is kept of an answer: its trajectory, that is its tokens with all that a call may ask about them, and its end.

A trajectory is not the response to one call. A call for fewer tokens, or with other stop strings, gets a cut of it; a
call for more gets it as the beginning (`skills.skill_draft.cut`).
"""

from __future__ import annotations

import enum
import hashlib
import itertools
import struct
from dataclasses import dataclass

from .engine.messages import Ending, FinishReason, TokenLogprob, Tokens

_FORM = 1
_CHECKSUM_BYTES = 16
# form, end, tokens of the prompt, of which images take, tokens, alternatives of each, seconds of work
_HEADER = struct.Struct("<BBIIIId")
_ALTERNATIVE = struct.Struct("<iHd")  # id, bytes, log-probability


class End(enum.IntEnum):
    """What follows the last token of a trajectory."""

    OPEN = 0
    """More tokens, which nobody has asked for yet."""
    ENDED = 1
    """The model's own end."""
    COMPLETE = 2
    """Nothing: the last token completed the constraint."""
    LIMIT = 3
    """Nothing: the key names the limit that was reached, and JSON was closed within it."""


class DamagedError(ValueError):
    """Bytes are no trajectory, or not a whole one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trajectory:
    """The tokens of one candidate, from its first one on."""

    tokens: Tokens
    end: End
    prompt_tokens: int
    image_tokens: int = 0
    """Those of them that images take."""
    top_logprobs: int = 0
    """Alternatives that each token has at most."""
    work_s: float = 0.0
    """How long the engine worked on it, its prompt included, seconds."""

    def is_within(self, other: Trajectory) -> bool:
        """Return whether another one of the same key has all that this one has."""
        longer = len(other.tokens.token_ids) >= len(self.tokens.token_ids)
        return longer and self.end in (End.OPEN, other.end) and self.top_logprobs <= other.top_logprobs

    def encode(self) -> bytes:
        """Return it as bytes."""
        n, tokens = len(self.tokens.token_ids), self.tokens
        header = _HEADER.pack(_FORM, self.end, self.prompt_tokens, self.image_tokens, n, self.top_logprobs, self.work_s)
        numbers = struct.pack(f"<{n}i{n}f{n}H", *tokens.token_ids, *tokens.logprobs, *map(len, tokens.spelling))
        body = [header, numbers, *tokens.spelling]
        for place in self.tokens.top:
            body.append(len(place).to_bytes(1))
            for other in place:
                body += [_ALTERNATIVE.pack(other.token_id, len(other.text), other.logprob), other.text]
        data = b"".join(body)
        return _checksum(data) + data

    @classmethod
    def decode(cls, data: bytes) -> Trajectory:
        """Return a trajectory from its bytes.

        Raises:
            DamagedError: They are not what `encode` returned.
        """
        data, checksum = data[_CHECKSUM_BYTES:], data[:_CHECKSUM_BYTES]
        if checksum != _checksum(data) or data[0] != _FORM:
            raise DamagedError("this is no trajectory, or it is damaged")
        _, kind, prompt_tokens, image_tokens, n, top, work_s = _HEADER.unpack_from(data)
        form = struct.Struct(f"<{n}i{n}f{n}H")
        numbers = form.unpack_from(data, _HEADER.size)
        ends = list(itertools.accumulate(numbers[2 * n :], initial=_HEADER.size + form.size))
        tokens = Tokens(
            token_ids=numbers[:n],
            logprobs=numbers[n : 2 * n],
            top=_top(data, ends[-1], n if top else 0),
            spelling=tuple(map(data.__getitem__, map(slice, ends, ends[1:]))),
        )
        return cls(
            tokens=tokens, end=End(kind), prompt_tokens=prompt_tokens, image_tokens=image_tokens,
            top_logprobs=top, work_s=work_s,
        )  # fmt: skip


def ids_of(data: bytes, most: int) -> tuple[int, ...]:
    """Return at most `most` ids of a trajectory's tokens, for a use to which wrong ones do no harm: unchecked."""
    start = _CHECKSUM_BYTES + _HEADER.size
    if len(data) < start or data[_CHECKSUM_BYTES] != _FORM:
        return ()
    n = _HEADER.unpack_from(data, _CHECKSUM_BYTES)[4]
    return struct.unpack_from(f"<{min(n, most, (len(data) - start) // 4)}i", data, start)


def end_of(ending: Ending, *, limited: bool) -> End | None:
    """Return how the trajectory of an answer ends; None if the answer is not kept.

    Args:
        ending: The answer's own.
        limited: Whether its tokens depend on its limits, which are in its key then.
    """
    match ending.reason:
        case FinishReason.STOP | FinishReason.STOP_STRING if ending.complete:
            return End.COMPLETE
        case FinishReason.STOP:
            return End.ENDED
        case FinishReason.STOP_STRING:
            return End.OPEN
        case FinishReason.LENGTH:
            return End.LIMIT if limited else End.OPEN
    return None


def _checksum(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=_CHECKSUM_BYTES).digest()


def _top(data: bytes, at: int, n: int) -> tuple[tuple[TokenLogprob, ...], ...]:
    places = []
    for _ in range(n):
        others, count = [], data[at]
        at += 1
        for _ in range(count):
            token_id, length, logprob = _ALTERNATIVE.unpack_from(data, at)
            at += _ALTERNATIVE.size
            others.append(TokenLogprob(token_id=token_id, text=data[at : at + length], logprob=logprob))
            at += length
        places.append(tuple(others))
    return tuple(places)
