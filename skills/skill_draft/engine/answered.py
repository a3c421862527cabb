"""Tokens of an answer, with what is known of each."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLogprob:
    """An alternative token with its bytes and its log-probability."""

    token_id: int
    text: bytes
    logprob: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """Tokens of an answer with their figures. All tuples are equally long, but the last two may be empty."""

    token_ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    top: tuple[tuple[TokenLogprob, ...], ...] = ()
    spelling: tuple[bytes, ...] = ()
    """The bytes of each token; only of tokens that come from an engine."""

    def __add__(self, other: Tokens) -> Tokens:
        if not self.token_ids:
            return other
        return Tokens(
            token_ids=self.token_ids + other.token_ids,
            logprobs=self.logprobs + other.logprobs,
            top=self.top + other.top,
            spelling=self.spelling + other.spelling,
        )

    def part(self, start: int, end: int | None = None) -> Tokens:
        """Return the tokens from one index to before another."""
        if not start and (end is None or end >= len(self.token_ids)):
            return self
        return Tokens(
            token_ids=self.token_ids[start:end],
            logprobs=self.logprobs[start:end],
            top=self.top[start:end],
            spelling=self.spelling[start:end],
        )
