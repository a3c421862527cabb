"""One computation for equal requests: calls read the tokens of one request in the engine, each with its own limits.

The first call of an answer gets the engine's events as they are. A call that comes while that is in flight joins: it
reads all tokens so far, then the rest. Each has its own stop strings, deadline and cancellation. The request leaves the
engine with its last reader; an error reaches all. What ended only because of another call's limits goes on for the
others, from the tokens that there are.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING

from .awaited_flight import AwaitedFlight
from .cut import Cut
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
    Priority,
    Progress,
    Queued,
    Request,
    Tokens,
)
from .engine.text import TextAssembler
from .supervisor import Supervisor
from .trajectory import Trajectory, end_of

if TYPE_CHECKING:
    from .near_answers import Sketch

Keys = tuple[bytes, ...]
"""The key of each candidate's answer."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Keeping:
    """How the answer to a request is kept."""

    keys: Keys
    identity: bytes
    """Part of the keys. What is computed while it changes is not kept."""
    limited: bool
    """Whether its tokens depend on the request's limits."""
    joint: bool
    """Whether calls that come meanwhile may read what is computed for it."""
    known: Sequence[Trajectory | None] = ()
    """What was kept of each candidate before."""
    replaces: bool = False
    """Whether the answer is kept in place of that, whatever it is."""
    sketch: Sketch | None = None
    """By which it is found for near-equal prompts, if it is to be."""


class Run(AwaitedFlight):
    """A request in the engine, and those who read its tokens."""

    def __init__(
        self, request: Request, keeping: Keeping | None, *, leads: bool, on_event: Callable[[Run, Event], None]
    ) -> None:
        super().__init__(request)
        self.keeping = keeping
        """None if its answer is not kept."""
        self.leads = leads
        """Whether the call that it was submitted for reads its events directly, and is still there."""
        self.readers: list[Reader] = []
        self._on_event = on_event
        # What was said so far may end in mid-character: the engine gives that part once more, with what follows.
        self.received = [_shown(tokens, request.stop) for tokens in self.received]
        self.repeated = [0] * request.num_candidates
        """Tokens of each candidate that come once more with the next pieces."""
        for i, (given, shown) in enumerate(zip(request.so_far, self.received, strict=False)):
            self.repeated[i] = len(given.token_ids) - len(shown.token_ids)

    def deliver(self, event: Event) -> None:
        """Pass an event to all who read."""
        if self.leads:
            super().deliver(event)
        for reader in tuple(self.readers):
            reader.hear(event)
        self._on_event(self, event)

    @property
    def work_s(self) -> float:
        """How long the engine has worked on it, seconds."""
        queued_s = self.admitted.queue_s if self.admitted else 0.0
        return max(0.0, time.monotonic() - self.request.arrived - queued_s)


class Reader(AwaitedFlight):
    """A call whose answer is read from tokens that were or are computed for others.

    Args:
        request: The call's request.
        keeping: How its answer is kept.
        n_ctx: The context length, tokens.
    """

    def __init__(self, request: Request, keeping: Keeping, *, n_ctx: int) -> None:
        super().__init__(request)
        self.keeping = keeping
        limited = keeping.limited
        self.cuts = [Cut(request, i, n_ctx=n_ctx, limited=limited) for i in range(request.num_candidates)]
        self.image_tokens = 0
        """Tokens of the prompt that images take, if that is known from what is kept."""
        self.saved_tokens = 0
        """Tokens of the answer that need not be computed for this call."""
        self.saved_s = 0.0
        self.run: Run | None = None
        self.owns_run = False
        """Whether that was submitted for this call, with its limits."""
        self.computed = False
        """Whether anything was."""
        self.go_on: Callable[[], None] = lambda: None
        """Gets it another run."""
        self._run_ended: Done | Failed | None = None

    @property
    def begun(self) -> bool:
        """Whether it has read any token."""
        return any(cut.source.token_ids for cut in self.cuts)

    def read_kept(self, kept: Sequence[Trajectory | None]) -> None:
        """Read what is kept of each candidate."""
        for cut, trajectory in zip(self.cuts, kept, strict=True):
            if trajectory is None:
                continue
            prompt_tokens = trajectory.prompt_tokens
            self.admitted, self.image_tokens = _all_cached(prompt_tokens), trajectory.image_tokens
            had = cut.n_had
            self._show(cut, cut.read(trajectory.tokens, trajectory.end, prompt_tokens=prompt_tokens))
            read, there = len(cut.source.token_ids), len(trajectory.tokens.token_ids)
            self.saved_tokens += read - had
            self.saved_s += trajectory.work_s * (read / there if there else 1.0)
        self._end_if_whole()

    def follow(self, run: Run, *, own: bool) -> None:
        """Read a run from now on, and what there is of it."""
        self.run, self.owns_run, self.computed = run, own, self.computed or own
        run.readers.append(self)
        self.queued |= run.queued
        if run.admitted:
            self.hear(run.admitted)
        for i, ending in run.endings.items():
            self._read(i, ending.tokens, ending)
        for i, tokens in enumerate(run.received):
            self._read(i, tokens, None)
        self._end_if_whole()

    def hear(self, event: Event) -> None:
        """Take an event of the run."""
        match event:
            case Queued():
                self.queued = True
            case Admitted() if self.owns_run and self.run and event is self.run.admitted:
                self.admitted = event
            case Admitted() if self.admitted is None:
                self.admitted = _all_cached(event.prompt_tokens)
            case Progress():
                self.take(event, time.monotonic())
            case Piece():
                assert self.run is not None
                self._read(event.candidate, self.run.received[event.candidate], None)
            case Ended():
                self._read(event.candidate, event.ending.tokens, event.ending)
            case Done() | Failed():
                self._end_of_run(event)

    def _end_of_run(self, event: Done | Failed) -> None:
        for i, ending in enumerate(event.endings if isinstance(event, Done) else ()):
            self._read(i, ending.tokens, ending)
        if self.ended:
            return
        if isinstance(event, Done) or (event.kind is FailureKind.DEADLINE and not self.owns_run):
            self._run_ended = event  # by another call's limit: this one goes on when it next looks for events
            self._events.put_nowait(event)
        elif event.kind is FailureKind.DEADLINE and any(self.texts):
            self.time_is_up()
        else:
            self.end(dataclasses.replace(event, id=self.request.id))

    async def events(self) -> AsyncIterator[Progress | Piece | Done | Failed]:
        """Yield progress and pieces as they arrive; the last event is `Done` or `Failed`."""
        while True:
            event = await self._events.get()
            if event is self._run_ended:
                self._run_ended = None
                self.go_on()
            elif isinstance(event, Progress | Piece | Done | Failed):
                yield event
                if isinstance(event, Done | Failed):
                    return

    def _read(self, candidate: int, tokens: Tokens, ending: Ending | None) -> None:
        """Read a candidate of the run."""
        cut, run = self.cuts[candidate], self.run
        if cut.ending or run is None:
            return
        before = len(cut.source.token_ids)
        end = end_of(ending, limited=self.keeping.limited) if ending else None
        piece = cut.read(tokens, end, prompt_tokens=self.admitted.prompt_tokens if self.admitted else 0)
        if not self.owns_run:
            self.saved_tokens += max(0, len(cut.source.token_ids) - max(before, cut.n_had))
        if ending and not cut.ending and (self.owns_run or ending.reason is FinishReason.CONTEXT_FULL):
            self._show(cut, piece)
            piece = cut.finish(ending.reason, computed=True)
        self._show(cut, piece)
        self._end_if_whole()

    def _show(self, cut: Cut, piece: Piece | None) -> None:
        now, candidate = time.monotonic(), self.cuts.index(cut)
        self.texts[candidate] = self.texts[candidate] or cut.replayed
        if piece:
            self.take(piece, now)
        if cut.ending:
            self.take(Ended(id=self.request.id, candidate=candidate, ending=cut.ending), now)

    def _end_if_whole(self) -> None:
        if all(cut.ending for cut in self.cuts) and not self.ended:
            endings = tuple(cut.ending for cut in self.cuts if cut.ending)
            if self.run and not self.owns_run:
                self.saved_s += self.run.work_s
            self.take(Done(id=self.request.id, endings=endings), time.monotonic())


class Runs:
    """The requests in the engine that calls may join.

    Args:
        on_event: Called with each event of a run, after its readers.
    """

    def __init__(self, on_event: Callable[[Run, Event], None]) -> None:
        self._running: dict[Keys, Run] = {}
        self._on_event = on_event

    def lead(self, engine: Supervisor, request: Request, keeping: Keeping | None, reader: Reader | None = None) -> Run:
        """Submit a request.

        Args:
            engine: Works on it.
            request: What to submit.
            keeping: How its answer is kept, if it is.
            reader: The call that it is for; None if its caller reads the run itself.
        """
        run = Run(request, keeping, leads=reader is None, on_event=self._heard)
        if keeping and keeping.joint:
            self._running.setdefault(keeping.keys, run)
        if reader:
            reader.follow(run, own=True)
        engine.send(run)  # may end it at once
        return run

    def can_join(self, request: Request, keeping: Keeping, *, begun: bool = False) -> bool:
        """Return whether a call can read what is being computed for another, perhaps after the tokens that it has."""
        run = self._running.get(keeping.keys)
        if run is None or not keeping.joint or (keeping.limited and begun):
            return False
        return run.request.top_logprobs >= request.top_logprobs

    def attach(self, engine: Supervisor, reader: Reader, whole: Request) -> None:
        """Let a call read a run: one that is there, or one that goes on from the tokens that the call has.

        Args:
            engine: Works on it.
            reader: The call.
            whole: Its request, with its images.
        """
        self.detach(engine, reader)
        reader.go_on = lambda: self.attach(engine, reader, whole)
        if self.can_join(reader.request, reader.keeping, begun=reader.begun):
            run = self._running[reader.keeping.keys]
            if (reader.request.priority, run.request.priority) == (Priority.INTERACTIVE, Priority.BATCH):
                engine.hurry(run)
            reader.follow(run, own=False)
            return
        so_far = tuple(cut.source for cut in reader.cuts) if reader.begun else ()
        request = dataclasses.replace(whole, id=engine.next_id(), so_far=so_far)
        self.lead(engine, request, reader.keeping, reader)

    def detach(self, engine: Supervisor, reader: Reader) -> None:
        """Let a call go; a request without readers leaves the engine. Idempotent."""
        run, reader.run = reader.run, None
        if run:
            run.readers.remove(reader)
            self._leave_if_unread(engine, run)

    def leave(self, engine: Supervisor, run: Run) -> None:
        """Let the call go that a run was submitted for. Idempotent."""
        run.leads = False
        self._leave_if_unread(engine, run)

    def _leave_if_unread(self, engine: Supervisor, run: Run) -> None:
        if not run.leads and not run.readers:
            self._close(run)
            engine.leave(run)

    def _heard(self, run: Run, event: Event) -> None:
        if isinstance(event, Done | Failed):
            self._close(run)
        self._on_event(run, event)

    def _close(self, run: Run) -> None:
        if run.keeping and self._running.get(run.keeping.keys) is run:
            del self._running[run.keeping.keys]


def _all_cached(prompt_tokens: int) -> Admitted:
    """Return what a call is told of a prompt that is not read for it."""
    return Admitted(id=0, prompt_tokens=prompt_tokens, cached_tokens=prompt_tokens, queue_s=0.0)


def _shown(tokens: Tokens, stop: tuple[str, ...]) -> Tokens:
    """Return those of an answer's tokens so far whose text was shown, as far as their bytes are known."""
    if not tokens.spelling:
        return tokens
    text = TextAssembler(stop)
    text.extend(tokens.spelling)
    return tokens.part(0, text.release()[1])
