"""Requests and answers, the same for all servers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """A turn of a conversation."""

    role: str
    content: str
    token_ids: tuple[int, ...] = ()
    """The tokens of an assistant's turn, if the server reports and accepts them."""
    images: tuple[bytes, ...] = ()
    """Image files, which precede the text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A request."""

    turns: tuple[Turn, ...]
    max_tokens: int
    temperature: float = 0.0
    num_candidates: int = 1
    seed: int = 1
    json_schema: str = ""
    """The schema that the answer must satisfy."""


def ask(prompt: str, max_tokens: int, *, system: str = "") -> Ask:
    """Return a request with a single prompt."""
    turns = (Turn(role="system", content=system),) if system else ()
    return Ask(turns=(*turns, Turn(role="user", content=prompt)), max_tokens=max_tokens)


@dataclass(slots=True, kw_only=True)
class Answer:
    """An answer and the arrival times of its tokens, in seconds of `time.perf_counter`."""

    start: float
    end: float = 0.0
    times: list[float] = field(default_factory=list)
    """Arrival time of each token; the same for tokens that arrive together."""
    text: str = ""
    token_ids: tuple[int, ...] = ()
    num_tokens: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0

    @property
    def latency_s(self) -> float:
        """Time from the request to the end of the answer."""
        return self.end - self.start

    @property
    def first_token_s(self) -> float:
        """Time from the request to the first token."""
        return self.times[0] - self.start

    @property
    def decode_rate(self) -> float:
        """Tokens a second after the first token."""
        after = [at for at in self.times if at > self.times[0]]
        return len(after) / (self.times[-1] - self.times[0]) if after else 0.0


class Client(Protocol):
    """A connection to a server."""

    async def ask(self, request: Ask, answer: Answer | None = None) -> Answer:
        """Send a request and read the answer as it is streamed; `answer`, if given, is filled as tokens arrive."""

    async def close(self) -> None:
        """Close the connection."""
