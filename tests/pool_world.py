"""The pool's state in virtual time: callers that behave like the clients, and replicas that do what a test says.

After each event it checks what must always hold: each call runs, waits or is over, and ends once; no piece comes
twice and none is missing; replicas hold no finished attempts; further attempts stay within their budget.
"""

from __future__ import annotations

import itertools
from typing import Any

from core.config import PoolConfig
from core.errors import ERROR_OF_CODE, CallError, NoImagesError
from core.pool import events
from core.pool.events import Action, Event
from core.pool.records import Attempt, Call, Replica
from core.pool.state import TICK_S, PoolState
from core.pool.waiting import FLOOR, RATIO
from core.rpc import grpc

METHOD = "GenerateStream"
MOST_TICKS = 2000
"""Most ticks in a second of virtual time; more would be a loop that never sleeps."""


def failure(code: str = "UNAVAILABLE", details: str = "Socket closed", **more: Any) -> CallError:
    """Return an error of a replica or of gRPC. The default is a broken connection."""
    status = grpc.StatusCode[code]
    return ERROR_OF_CODE[status](code=status, details=details, skill="echo", target="", **more)


REFUSED = failure(details="failed to connect to all addresses; last error: Connection refused")
BROKEN = failure()
INTERNAL = failure("INTERNAL", "its engine has failed")
BLIND = NoImagesError(code=grpc.StatusCode.FAILED_PRECONDITION, details="it reads text alone", skill="echo", target="")


def full(for_s: float | None = 1.0) -> CallError:
    """Return the error of a full replica, with the time after which to retry."""
    return failure("RESOURCE_EXHAUSTED", "the queue is full", retry_after_s=for_s)


class Talk:
    """A call, and what its caller has received."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self.pieces: list[int] = []
        self.ends: list[str] = []
        """How it ended: `answer`, `left` or the error's class; in the end there is exactly one."""
        self.sent_with: dict[Attempt, int] = {}
        """How many pieces each attempt's request contained."""

    @property
    def at(self) -> str:
        """Return the target at which it runs; empty if it waits or is over."""
        attempt = self.call.attempt
        return attempt.replica.target if attempt is not None and not attempt.over else ""


class World:
    """Replicas of a skill, their callers, and a clock.

    Args:
        targets: the replicas' addresses.
        known: whether they have answered before.
        changing: whether the addresses may change.
        settings: fields of `PoolConfig`.
    """

    def __init__(self, *targets: str, known: bool = True, changing: bool = False, **settings: Any) -> None:
        self.now = self.began_s = 1000.0
        self.config = PoolConfig(**settings)
        replicas = [Replica(target, known=known) for target in targets]
        self.state = PoolState("echo", self.config, replicas, changing=changing)
        self.talks: list[Talk] = []
        self.running: list[Attempt] = []
        self.told: list[Action] = []
        """All actions that the state has decided."""

    # --- events ---

    def tell(self, event: Event) -> list[Action]:
        actions = self.state.on(event, self.now)
        self.told += actions
        for action in actions:
            match action:
                case events.Begin(attempt):
                    self._begin(attempt)
                case events.End(attempt):
                    self.running.remove(attempt)
                case events.Fail(call):
                    talk = self._talk(call)
                    if talk.ends != ["left"]:
                        talk.ends.append(type(call.error).__name__)
        self.check()
        return actions

    def _begin(self, attempt: Attempt) -> None:
        talk = self._talk(attempt.call)
        assert not talk.ends, "an attempt began after the call's end"
        assert not attempt.replica.down
        assert not attempt.replica.leaving
        talk.sent_with[attempt] = len(talk.pieces)
        attempt.probe = lambda: True
        self.running.append(attempt)

    def _talk(self, call: Call) -> Talk:
        return next(talk for talk in self.talks if talk.call is call)

    def ask(
        self, timeout_s: float = 60.0, *, caller: str = "", about: int = 0, hedge: bool = True, images: bool = False
    ) -> Talk:
        """Start a call; calls about the same thing share a prefix."""
        conversation = [about] if about else []
        call = Call(
            METHOD, self.now + timeout_s, caller=caller, owner=caller, conversation=conversation, has_images=images
        )
        if hedge:
            call.race = print
        self.talks.append(talk := Talk(call))
        self.tell(events.Asked(call))
        return talk

    def piece(self, attempt: Attempt, *, resumable: bool = True, last: bool = False) -> None:
        """Deliver a message, perhaps of an attempt that is long over, as `core.pool.answer` would read it."""
        talk = self._talk(attempt.call)
        if attempt.hedge and not attempt.over and attempt.call.attempt is not attempt:
            self.tell(events.Heard(attempt, 0, attempt.call.resumable))  # as both attempts are still racing
        before = attempt.tokens
        self.tell(events.Succeeded(attempt) if last else events.Heard(attempt, 1, resumable))
        if attempt.tokens > before:
            assert not talk.ends, "a piece came after the end"
            position = talk.sent_with[attempt]
            assert position == len(talk.pieces), "a piece came twice or is missing"
            talk.pieces.append(position)
            talk.sent_with[attempt] += 1
            if last:
                talk.ends.append("answer")

    def answer(self, talk: Talk) -> str:
        """Deliver the whole answer of the call's replica; return that replica's target."""
        assert talk.call.attempt is not None
        self.piece(talk.call.attempt, last=True)
        return talk.call.attempt.replica.target

    def fail(self, talk: Talk, error: CallError = BROKEN) -> None:
        """Let the call's attempt fail."""
        assert talk.call.attempt is not None
        self.tell(events.Failed(talk.call.attempt, error))

    def leave(self, talk: Talk) -> None:
        """Let the caller leave."""
        if not talk.ends:
            talk.ends.append("left")
        self.tell(events.Left(talk.call))

    def back(self, *targets: str) -> None:
        """Report these replicas as SERVING."""
        for replica in self.state.roster.replicas:
            if replica.target in targets:
                self.tell(events.HealthTold(replica, serving=True))

    def replica(self, target: str) -> Replica:
        """Return the replica at an address."""
        return next(each for each in self.state.roster.replicas if each.target == target)

    def wait(self, seconds: float) -> None:
        """Let time pass; each tick comes when it is due."""
        until_s = self.now + seconds
        for number in itertools.count():
            due_s = max(self.now, self.state.due_s)
            if due_s > until_s:
                break
            assert number < MOST_TICKS * (1 + seconds), "the state asks for ticks without end"
            self.now = due_s
            self.tell(events.Tick())
        self.now = until_s

    # --- invariants ---

    def check(self) -> None:
        state, waiting = self.state, list(self.state.line)
        leased = {attempt for replica in state.roster.with_calls() for attempt in replica.attempts}
        assert leased == set(self.running), "held and running attempts differ"
        assert len(self.running) == len(leased)
        assert all(each in (each.call.attempt, each.call.rival) for each in leased), "an attempt runs for no call"
        for talk in self.talks:
            call = talk.call
            runs = call.attempt in leased
            assert runs + call.over + (call in waiting) == 1, "a call must run, wait or be over"
            assert len(talk.ends) <= 1
            assert call.rival is None or (runs and call.rival in leased)
        assert len(waiting) <= self.config.queue_limit
        elapsed_s = self.now - self.began_s
        assert state.stats.moves == sum(talk.call.moved for talk in self.talks), "a call moves once at most"
        assert state.stats.attempts - state.stats.moves <= (1 + RATIO) * state.stats.calls + FLOOR + 1 + elapsed_s
        if self.running:
            assert state.due_s <= self.now + TICK_S
        for call in waiting:
            assert state.due_s <= max(self.now, call.deadline_s), "a call waits beyond its deadline"
