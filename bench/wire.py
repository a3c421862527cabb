"""What is asked of a server and what comes back, the same for all servers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """A turn of a conversation."""

    role: str
    content: str
    token_ids: tuple[int, ...] = ()
    """The tokens that an assistant's turn was written as, where the server says them and takes them back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A request."""

    turns: tuple[Turn, ...]
    max_tokens: int
    temperature: float = 0.0
    num_candidates: int = 1
    seed: int = 1
    json_schema: str = ""
    """What the answer must fit."""


def ask(prompt: str, max_tokens: int, *, system: str = "") -> Ask:
    """A request of one prompt."""
    turns = (Turn(role="system", content=system),) if system else ()
    return Ask(turns=(*turns, Turn(role="user", content=prompt)), max_tokens=max_tokens)


@dataclass(slots=True, kw_only=True)
class Answer:
    """An answer and when its tokens arrived, seconds of `time.perf_counter`."""

    start: float
    end: float = 0.0
    times: list[float] = field(default_factory=list)
    """Arrival of each token. Tokens that arrive together have the same time."""
    text: str = ""
    token_ids: tuple[int, ...] = ()
    num_tokens: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0

    @property
    def latency_s(self) -> float:
        """From the request to the end of the answer."""
        return self.end - self.start

    @property
    def first_token_s(self) -> float:
        """From the request to the first token."""
        return self.times[0] - self.start

    @property
    def decode_rate(self) -> float:
        """Tokens a second after the first one."""
        after = [at for at in self.times if at > self.times[0]]
        return len(after) / (self.times[-1] - self.times[0]) if after else 0.0


class Client(Protocol):
    """A connection to a server."""

    async def ask(self, request: Ask, answer: Answer | None = None) -> Answer:
        """Asks and reads the answer as it is written. `answer`, if given, is filled as tokens arrive."""

    async def close(self) -> None:
        """Closes the connection."""
