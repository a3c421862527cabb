"""What the pool's state is made of: calls, their attempts, and the replicas that these go to. Plain data, no clock."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from core.pool.pace import Fastest, Pace

if TYPE_CHECKING:
    from core.errors import CallError, SaraiError

EJECT_AFTER = 5
EJECT_S = 30.0
EJECT_MOST_S = 300.0
"""Envoy's figures: after this many failures in a row a replica is left out for 30 s times the number of ejections."""
SUCCESSES_FOR_MORE = 10
"""After this many successes a replica that was full gets one call more at a time. Slower growth keeps the overshoots
within the retry budget, which is one retry for five calls."""
FIRST_PAUSE_S = 0.1
MOST_PAUSE_S = 1.0


def _nothing(*_: object) -> None: ...


class Call:
    """A call from the moment it asks for a replica until it ends.

    The state decides `attempt` and `error`; whoever makes the call acts on them when `wake` is called.

    Args:
        method: the stub's method.
        deadline_s: when it has to be over, on the state's clock.
        caller: who takes turns with other callers where calls have to wait.
        owner: the client that makes it.
        conversation: see `core.pool.balance.conversation_keys`.
    """

    def __init__(
        self,
        method: str,
        deadline_s: float,
        *,
        caller: str = "",
        owner: object = None,
        conversation: Sequence[int] = (),
    ) -> None:
        self.method = method
        self.deadline_s = deadline_s
        self.caller = caller
        self.owner = owner
        self.conversation = conversation
        self.wake: Callable[[], object] = _nothing
        """Set by whoever makes the call: its `attempt` or `error` has changed. Called from any thread."""
        self.race: Callable[[Attempt], object] | None = None
        """Set by whoever makes the call: begins the same request at a second replica. None where that is impossible."""
        self.attempt: Attempt | None = None
        """The attempt that the answer comes from; None while it waits for a replica."""
        self.rival: Attempt | None = None
        """A second attempt at another replica, until either of the two has answered."""
        self.error: SaraiError | None = None
        """Why it has failed."""
        self.over = False
        self.resumable = True
        """Whether another attempt can give the caller what is still missing."""
        self.num_attempts = 0
        self.last_replica: Replica | None = None
        self.last_error: CallError | None = None
        self.tried: dict[str, str] = {}
        """What went wrong, by target."""
        self.breaks: list[tuple[Replica, int]] = []
        """The replicas whose connection broke while they worked on it, and how often each had died by then."""
        self.waiting_since_s = 0.0
        self.failing_since_s = math.inf
        self.not_before_s = 0.0
        self.out_of_time = False
        """Whether it has failed because nothing more can be done before its deadline."""

    def remaining_s(self, now: float) -> float:
        """Seconds to the deadline, 0 if it is over."""
        return max(0.0, self.deadline_s - now)

    def note_failure(self, replica: Replica, error: CallError, now: float) -> None:
        """Remember why an attempt failed."""
        self.last_error = error
        self.tried[replica.target] = error.details()
        self.waiting_since_s = now
        self.failing_since_s = min(self.failing_since_s, now)


class Attempt:
    """A call's place at a replica, from the choice until the attempt is over."""

    __slots__ = (
        "began_s", "call", "cancel", "first", "heard_s", "hedge", "hedged", "longest_wait_s", "over", "probe", "prod",
        "replica", "rpc", "tokens", "why_over",
    )  # fmt: skip

    def __init__(self, call: Call, replica: Replica, now: float, *, hedge: bool = False) -> None:
        self.call = call
        self.replica = replica
        self.hedge = hedge
        """Whether it was begun beside one that still had time."""
        self.hedged = False
        """Whether one was begun beside it."""
        self.began_s = self.heard_s = now
        self.longest_wait_s = 0.0
        self.tokens = 0
        self.over = False
        self.why_over = ""
        """Why the pool itself ended it; empty where it did not."""
        # For whoever makes the call.
        self.rpc: Any = None
        self.first: Any = None
        """The first piece, which was read while the race went on."""
        self.cancel: Callable[[], object] = _nothing
        """Ends the request. Called from any thread."""
        self.prod: Callable[[], object] = _nothing
        """Makes a reader notice an end that gRPC has lost. Called from any thread."""
        self.probe: Callable[[], bool] | None = None
        """Asks the replica over the same connection; whether it is silent. Takes seconds, in any thread."""

    def hear(self, tokens: int, now: float) -> None:
        """Note that something has come."""
        self.longest_wait_s = max(self.longest_wait_s, now - self.heard_s)
        self.heard_s = now
        self.tokens += tokens


class Replica:
    """A replica among others: how busy it is, how fast, and how well.

    Args:
        target: its address.
        known: whether it has ever answered.
        starts_itself: whether it is a local process of ours, which is started when it is called.
    """

    def __init__(self, target: str, *, known: bool = False, starts_itself: bool = False) -> None:
        self.target = target
        self.known = known
        self.starts_itself = starts_itself
        self.attempts: dict[Attempt, None] = {}
        """Those that run, the oldest first; a set would not always come in the same order."""
        self.down = False
        self.why_down = ""
        self.losses = 0
        """How often it was lost; its prefix cache may have been, too."""
        self.deaths = 0
        """How often it was gone indeed, and not only a connection broken."""
        self.generation = 0
        """Connections of an older generation are not used for new calls: they may lead nowhere."""
        self.calls = self.failures = 0
        self.leaving = False
        """Whether it is no longer among the targets."""
        self.checking = False
        """Whether it is being asked whether it is there, as its calls are silent."""
        self.checked_s = 0.0
        self._death_counted = self._unwilling = False
        self._closed_until_s = self._full_until_s = self._ejected_until_s = 0.0
        self._room = math.inf
        """How many calls of ours it has room for; infinite until it has been full once."""
        self._pauses = self._failed_in_a_row = self._ejections = 0
        self._paces: defaultdict[str, Pace] = defaultdict(Pace)

    def takes_calls(self, now: float) -> bool:
        """Whether it can be called just now, ejected or not."""
        return self._is_there and now >= self._closed_until_s and self._has_room

    def is_full(self, now: float) -> bool:
        """Whether it is there and has no room: it has said so, or has as many calls as it had room for of late."""
        return self._is_there and (now < self._full_until_s or not self._has_room)

    @property
    def _is_there(self) -> bool:
        return not self.leaving and (not self.down or self.starts_itself)

    @property
    def _has_room(self) -> bool:
        return len(self.attempts) + 1 <= self._room

    def ejected(self, now: float) -> bool:
        """Whether it is left out for its failures."""
        return now < self._ejected_until_s

    def condition(self, now: float) -> str:
        """How it is, as `ReplicaStatus.state` names it."""
        if self.down:
            return "down"
        return "ejected" if self.ejected(now) else "paused" if now < self._closed_until_s else "serving"

    def opens_s(self) -> float:
        """When it can be called again as far as is known; infinite where nobody knows."""
        return self._closed_until_s if self._is_there and self._has_room else math.inf

    # --- what happens to it ---

    def lose(self, why: str, *, gone: bool) -> None:
        """Note that a connection has broken, or, where it is `gone`, that nobody takes one any more."""
        self.losses += 1
        self.deaths += gone and not self._death_counted
        self._death_counted |= gone
        self.down, self.why_down = True, why

    def refuse(self, why: str) -> None:
        """Note that it says it does not serve now. What it still finishes is no sign that it takes more."""
        self.down, self.why_down, self._unwilling = True, why, True

    def serve(self) -> None:
        """Note that it says SERVING."""
        self.down, self.why_down, self._death_counted, self._unwilling = False, "", False, False

    def answer(self) -> None:
        """Note that it has answered a call."""
        self.known = True
        if not self._unwilling:
            self.serve()

    def pause(self, now: float) -> None:
        """Leave it alone for a moment, a longer one each time in a row."""
        self._pauses += 1
        self._closed_until_s = now + min(MOST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(self._pauses - 1, 10))

    def fill(self, for_s: float, now: float) -> None:
        """Note that it has no room for a call of ours beside the others, and when it will have.

        From then on it gets no more calls at a time than it had, so that those that wait do so here, where callers take
        turns, and not in a crowd at its door. With each call that ends well there may be a little more of them.
        """
        self._closed_until_s = self._full_until_s = now + for_s
        self._room = max(1, len(self.attempts) - 1)

    def fail(self, now: float) -> None:
        """Note a call that failed through its fault; after some in a row it is left out for a while."""
        self.failures += 1
        self._failed_in_a_row += 1
        if self._failed_in_a_row >= EJECT_AFTER:
            self._failed_in_a_row = 0
            self._ejections += 1
            self._ejected_until_s = now + min(EJECT_MOST_S, EJECT_S * self._ejections)

    def succeed(self, attempt: Attempt, now: float) -> None:
        """Note a call that ended well."""
        self._failed_in_a_row = self._pauses = 0
        self._room += 1 / max(self._room, SUCCESSES_FOR_MORE)
        if not self.ejected(now):
            self._ejections = max(0, self._ejections - 1)
        self.note_pace(attempt, now)

    # --- what speaks for it ---

    def pace(self, method: str) -> Pace:
        """How fast it answers calls of a method."""
        return self._paces[method]

    def note_pace(self, attempt: Attempt, now: float) -> None:
        """Learn from an attempt that has ended, or was taken from it."""
        wait_s = max(attempt.longest_wait_s, now - attempt.heard_s)
        self.pace(attempt.call.method).note(now - attempt.began_s, attempt.tokens, wait_s, now)

    def expected(self, method: str, now: float, fastest: Fastest) -> float:
        """The work that is outstanding here with one call more, in calls of the fastest replica."""
        silent = (now - attempt.heard_s for attempt in self.attempts if attempt.call.method == method)
        return (len(self.attempts) + 1) * self.pace(method).slower(fastest, max(silent, default=0.0), now)
