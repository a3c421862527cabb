"""A request on its way between the caller and the engine. What its caller has received is enough to resume it."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass, field

from .engine.messages import (
    Admitted,
    Done,
    Ended,
    Ending,
    Event,
    Failed,
    FailureKind,
    FinishReason,
    Piece,
    Progress,
    Queued,
    Request,
    Rows,
    Tokens,
)  # fmt: skip


@dataclass(slots=True, eq=False)
class Flight:
    """One request in flight. It outlives the engine process that works on it."""

    request: Request
    received: list[Tokens] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    """The text of those tokens, for each candidate."""
    endings: dict[int, Ending] = field(default_factory=dict)
    """The endings of candidates that have finished while others are still running."""
    queued: bool = False
    admitted: Admitted | None = None
    progress: Progress | None = None
    first_token_at: float | None = None
    last_token_at: float | None = None
    ended: bool = False
    lost_engine: bool = False
    """Whether an engine died while it had this request."""
    rows: Rows | None = None
    """Rows that wait until its trial goes on (see `Replay`)."""
    images_to_encode: int = 0
    encode_wait_s: float = 0.0
    """Expected time until they are encoded."""

    def __post_init__(self) -> None:
        self.received = list(self.request.so_far) or [Tokens()] * self.request.num_candidates
        self.texts = [""] * self.request.num_candidates

    def deliver(self, event: Event) -> None:
        """Pass an event to the caller. The last one is `Done` or `Failed`."""

    def resumed(self) -> Request:
        """Return the request with the tokens that its caller has received so far."""
        values = {name: getattr(self.request, name) for name in Request.__slots__}
        values["so_far"] = tuple(self.received) if any(t.token_ids for t in self.received) else ()
        values["hint"] = () if self.lost_engine else self.request.hint  # the less that a replay depends on, the better
        return Request(**values)

    def take(self, event: Event, now: float) -> None:
        """Record an event of the engine and pass it on to the caller, unless the flight has ended."""
        if self.ended:  # at its deadline: what the engine still sends comes too late
            return
        match event:
            case Queued():
                self.queued = True
                self.texts = list(event.texts) or self.texts
            case Admitted() if self.admitted is None:
                self.admitted = event
            case Progress():
                self.progress = event
                event = self._with_images(event)
            case Piece():
                self.last_token_at = now
                self.first_token_at = self.first_token_at or now
                self.received[event.candidate] += event.tokens
                self.texts[event.candidate] += event.text
            case Ended():
                self.endings[event.candidate] = event.ending
            case Done() | Failed():
                self.ended = True
        self.deliver(event)

    def encoding(self, images: int, wait_s: float) -> None:
        """Tell the caller how long the images of its request still take to encode; 0 images: no more."""
        self.images_to_encode, self.encode_wait_s = images, wait_s
        if images and not self.ended:
            tokens = self.admitted.prompt_tokens if self.admitted else 0
            known = self.progress or Progress(id=self.request.id, place=0, wait_s=0, read=0, prompt_tokens=tokens)
            self.deliver(self._with_images(known))

    def _with_images(self, progress: Progress) -> Progress:
        wait_s = progress.wait_s + self.encode_wait_s
        return dataclasses.replace(progress, wait_s=wait_s, images_to_encode=self.images_to_encode)

    def end(self, event: Done | Failed) -> None:
        """End the flight for its caller, regardless of the engine. Does nothing if it has ended."""
        if not self.ended:
            self.ended = True
            self.deliver(event)

    def time_is_up(self) -> None:
        """End the flight shortly before its deadline.

        The text written so far is the answer; if there is none, the flight fails with the reason. The engine is not
        asked: it may be in a long step, or gone.
        """
        if not any(self.texts):
            why = f"there was no answer yet at the deadline: {self._waits_for()}"
            self.end(Failed(id=self.request.id, kind=FailureKind.DEADLINE, message=why))
        elif not self.request.hard_deadline:
            written = zip(self.texts, self.received, strict=True)
            so_far = [Ending(text=text, reason=FinishReason.TIME_BUDGET, tokens=tokens) for text, tokens in written]
            endings = tuple(self.endings.get(i, ending) for i, ending in enumerate(so_far))
            self.end(Done(id=self.request.id, endings=endings))

    def _waits_for(self) -> str:
        if not self.queued:
            return "it waited for an engine that prepares it"
        if self.admitted is None:
            place = f", at place {self.progress.place}" if self.progress else ""
            return f"it waited in the queue{place}"
        if self.images_to_encode:
            return f"{self.images_to_encode} of its images were still to be encoded"
        read = self.progress.read if self.progress else 0
        return f"{read} of {self.admitted.prompt_tokens} tokens of the prompt were read"

    @property
    def written(self) -> int:
        """Number of tokens that this call has received, not counting those it continues from."""
        had = sum(len(t.token_ids) for t in self.request.so_far)
        return sum(len(t.token_ids) for t in self.received) - had

    @property
    def fingerprint(self) -> str:
        """A hash that identifies the request in the log without revealing its text."""
        content = dataclasses.replace(self.request, id=0, arrived=0, deadline=None, budget_end=None, so_far=(), hint=())
        return hashlib.sha256(repr(content).encode()).hexdigest()[:16]
