"""The pool's state in virtual time: callers that behave as the clients do, and replicas that do as a test wants.

After each event it checks what has to hold always: each call runs, waits or is over, and ends once; no piece comes
twice and none is missing; places are given back; further attempts stay within their budget.
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
"""In a second of virtual time; more are a loop that never sleeps."""


def failure(code: str = "UNAVAILABLE", details: str = "Socket closed", **more: Any) -> CallError:
    """What a replica, or gRPC, may say. The default is a connection that breaks."""
    status = grpc.StatusCode[code]
    return ERROR_OF_CODE[status](code=status, details=details, skill="echo", target="", **more)


REFUSED = failure(details="failed to connect to all addresses; last error: Connection refused")
BROKEN = failure()
INTERNAL = failure("INTERNAL", "its engine has failed")
BLIND = NoImagesError(code=grpc.StatusCode.FAILED_PRECONDITION, details="it reads text alone", skill="echo", target="")


def full(for_s: float | None = 1.0) -> CallError:
    """No room, and when there will be some."""
    return failure("RESOURCE_EXHAUSTED", "the queue is full", retry_after_s=for_s)


class Talk:
    """A call, and what its caller has got."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self.pieces: list[int] = []
        self.ends: list[str] = []
        """`answer`, `left` or the error's class. One of them, in the end."""
        self.sent_with: dict[Attempt, int] = {}
        """How many pieces went along with each attempt's request."""

    @property
    def at(self) -> str:
        """Where it runs; empty where it waits or is over."""
        attempt = self.call.attempt
        return attempt.replica.target if attempt is not None and not attempt.over else ""


class World:
    """Replicas of a skill, those who call it, and a clock.

    Args:
        targets: the replicas' addresses.
        known: whether they have answered before.
        changing: whether the addresses may change.
        settings: of `PoolConfig`.
    """

    def __init__(self, *targets: str, known: bool = True, changing: bool = False, **settings: Any) -> None:
        self.now = self.began_s = 1000.0
        self.config = PoolConfig(**settings)
        replicas = [Replica(target, known=known) for target in targets]
        self.state = PoolState("echo", self.config, replicas, changing=changing)
        self.talks: list[Talk] = []
        self.running: list[Attempt] = []
        self.told: list[Action] = []
        """All that the state has decided."""

    # --- what happens ---

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
        assert not talk.ends, "what is over is not begun again"
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
        """Somebody calls; calls about the same thing share a prefix."""
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
        """A message comes, perhaps of an attempt that is long over; it is read as `core.pool.answer` does."""
        talk = self._talk(attempt.call)
        if attempt.hedge and not attempt.over and attempt.call.attempt is not attempt:
            self.tell(events.Heard(attempt, 0, attempt.call.resumable))  # what is read while they race
        before = attempt.tokens
        self.tell(events.Succeeded(attempt) if last else events.Heard(attempt, 1, resumable))
        if attempt.tokens > before:
            assert not talk.ends, "nothing comes after the end"
            position = talk.sent_with[attempt]
            assert position == len(talk.pieces), "none twice, none missing"
            talk.pieces.append(position)
            talk.sent_with[attempt] += 1
            if last:
                talk.ends.append("answer")

    def answer(self, talk: Talk) -> str:
        """The call's replica gives the whole answer. Returns which one that was."""
        assert talk.call.attempt is not None
        self.piece(talk.call.attempt, last=True)
        return talk.call.attempt.replica.target

    def fail(self, talk: Talk, error: CallError = BROKEN) -> None:
        """The call's attempt fails."""
        assert talk.call.attempt is not None
        self.tell(events.Failed(talk.call.attempt, error))

    def leave(self, talk: Talk) -> None:
        """The caller wants nothing more."""
        if not talk.ends:
            talk.ends.append("left")
        self.tell(events.Left(talk.call))

    def back(self, *targets: str) -> None:
        """These say SERVING."""
        for replica in self.state.roster.replicas:
            if replica.target in targets:
                self.tell(events.HealthTold(replica, serving=True))

    def replica(self, target: str) -> Replica:
        """The one at an address."""
        return next(each for each in self.state.roster.replicas if each.target == target)

    def wait(self, seconds: float) -> None:
        """Time passes, and each tick comes when it is due."""
        until_s = self.now + seconds
        for number in itertools.count():
            due_s = max(self.now, self.state.due_s)
            if due_s > until_s:
                break
            assert number < MOST_TICKS * (1 + seconds), "it never sleeps"
            self.now = due_s
            self.tell(events.Tick())
        self.now = until_s

    # --- what holds always ---

    def check(self) -> None:
        state, waiting = self.state, list(self.state.line)
        leased = {attempt for replica in state.roster.with_calls() for attempt in replica.attempts}
        assert leased == set(self.running), "a place is held as long as its attempt runs"
        assert len(self.running) == len(leased)
        assert all(each in (each.call.attempt, each.call.rival) for each in leased), "nobody works for nobody"
        for talk in self.talks:
            call = talk.call
            runs = call.attempt in leased
            assert runs + call.over + (call in waiting) == 1, "it runs, waits or is over"
            assert len(talk.ends) <= 1
            assert call.rival is None or (runs and call.rival in leased)
        assert len(waiting) <= self.config.queue_limit
        elapsed_s = self.now - self.began_s
        assert state.stats.attempts <= (1 + RATIO) * state.stats.calls + FLOOR + 1 + elapsed_s
        if self.running:
            assert state.due_s <= self.now + TICK_S
        for call in waiting:
            assert state.due_s <= max(self.now, call.deadline_s), "nobody waits beyond the deadline"
