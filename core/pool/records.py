"""The records of the pool's state: calls, their attempts, and the replicas. Plain data without a clock."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from core.pool.latency import Fastest, LatencyAverage

if TYPE_CHECKING:
    from core.errors import CallError, SaraiError

EJECT_AFTER = 5
EJECT_S = 30.0
EJECT_MOST_S = 300.0
"""Envoy's figures: after this many consecutive failures a replica is ejected for 30 s times its number of ejections."""
SUCCESSES_FOR_MORE = 10
"""After this many successes, the concurrency limit of a replica that was full rises by one. Faster growth would
overshoot more often than the retry budget allows, one retry for five calls."""
NO_IMAGES_S = 60.0
"""For this long, a replica that reads no images gets requests with images only if no other one takes calls."""
FIRST_PAUSE_S = 0.1
MOST_PAUSE_S = 1.0


def _nothing(*_: object) -> None: ...


class Call:
    """A call, from its request for a replica to its end.

    The state sets `attempt` and `error`; the client acts on them when `wake` is called.

    Args:
        method: The stub's method.
        deadline_s: When it must be over, on the state's clock.
        caller: A name; callers take turns if calls have to wait.
        owner: The client that makes it.
        conversation: See `core.pool.balance.conversation_keys`.
        has_images: Whether its request has images.
    """

    def __init__(
        self,
        method: str,
        deadline_s: float,
        *,
        caller: str = "",
        owner: object = None,
        conversation: Sequence[int] = (),
        has_images: bool = False,
    ) -> None:
        self.method = method
        self.deadline_s = deadline_s
        self.caller = caller
        self.owner = owner
        self.conversation = conversation
        self.has_images = has_images
        self.wake: Callable[[], object] = _nothing
        """Set by the client; called from any thread when `attempt` or `error` has changed."""
        self.race: Callable[[Attempt], object] | None = None
        """Set by the client; sends the same request to a second replica. None if that is impossible."""
        self.attempt: Attempt | None = None
        """The attempt that provides the answer; None while the call waits for a replica."""
        self.rival: Attempt | None = None
        """A second attempt at another replica, until either of the two has answered."""
        self.error: SaraiError | None = None
        """Why it has failed."""
        self.over = False
        self.resumable = True
        """Whether another attempt can provide the rest of the answer."""
        self.num_attempts = 0
        self.last_replica: Replica | None = None
        self.last_error: CallError | None = None
        self.tried: dict[str, str] = {}
        """The errors, by target."""
        self.breaks: list[tuple[Replica, int]] = []
        """The replicas whose connection broke during an attempt, with their number of deaths by then."""
        self.waiting_since_s = 0.0
        self.failing_since_s = math.inf
        self.not_before_s = 0.0
        self.moved = False
        """Whether it was sent to another replica before its prompt was read, to be read sooner."""
        self.out_of_time = False
        """Whether it has failed because it cannot be completed before its deadline."""

    def remaining_s(self, now: float) -> float:
        """Return the seconds to the deadline, 0 if it has passed."""
        return max(0.0, self.deadline_s - now)

    def note_failure(self, replica: Replica, error: CallError, now: float) -> None:
        """Record why an attempt failed."""
        self.last_error = error
        self.tried[replica.target] = error.details()
        self.waiting_since_s = now
        self.failing_since_s = min(self.failing_since_s, now)


class Attempt:
    """A call at a replica, from the choice of the replica to the end of the attempt."""

    __slots__ = (
        "began_s", "call", "cancel", "first", "heard_s", "hedge", "hedged", "longest_wait_s", "over", "probe", "prod",
        "replica", "request", "rpc", "tokens", "travelled", "wanted", "why_over",
    )  # fmt: skip

    def __init__(self, call: Call, replica: Replica, now: float, *, hedge: bool = False) -> None:
        self.call = call
        self.replica = replica
        self.hedge = hedge
        """Whether it is a hedge of another attempt."""
        self.hedged = False
        """Whether there was a hedge of it."""
        self.began_s = self.heard_s = now
        self.longest_wait_s = 0.0
        self.tokens = 0
        self.over = False
        self.why_over = ""
        """Why the pool itself ended it; empty if it did not."""
        # For the client.
        self.request: Any = None
        """What is sent, with the hash of each image in place of its bytes."""
        self.wanted: set[bytes] = set()
        """The images whose bytes the replica may lack."""
        self.travelled: set[bytes] = set()
        """Those whose bytes it was sent."""
        self.rpc: Any = None
        self.first: Any = None
        """The first piece, read during the race."""
        self.cancel: Callable[[], object] = _nothing
        """Ends the request. Called from any thread."""
        self.prod: Callable[[], object] = _nothing
        """Makes its reader notice an end that gRPC has lost. Called from any thread."""
        self.probe: Callable[[], bool] | None = None
        """Probes the replica over the same connection; returns whether it is silent. Takes seconds, in any thread."""

    def hear(self, tokens: int, now: float) -> None:
        """Record that something has arrived."""
        self.longest_wait_s = max(self.longest_wait_s, now - self.heard_s)
        self.heard_s = now
        self.tokens += tokens


class Replica:
    """A replica: its load, speed and health.

    Args:
        target: Its address.
        known: Whether it has ever answered.
        starts_itself: Whether it is a local process of ours, which is started when it is called.
    """

    def __init__(self, target: str, *, known: bool = False, starts_itself: bool = False) -> None:
        self.target = target
        self.known = known
        self.starts_itself = starts_itself
        self.attempts: dict[Attempt, None] = {}
        """The running attempts, oldest first; a set would have no stable order."""
        self.down = False
        self.why_down = ""
        self.losses = 0
        """How often its connection was lost, possibly with its prefix cache."""
        self.deaths = 0
        """How often it was really gone, not just a connection broken."""
        self.generation = 0
        """Connections of an older generation may be dead and are not used for new calls."""
        self.calls = self.failures = 0
        self.leaving = False
        """Whether it is no longer among the targets."""
        self.checking = False
        """Whether it is being probed, as its calls are silent."""
        self.checked_s = 0.0
        self._death_counted = self._unwilling = False
        self._closed_until_s = self._full_until_s = self._ejected_until_s = self._no_images_until_s = 0.0
        self._room = math.inf
        """Its concurrency limit for our calls; infinite until it has been full once."""
        self._pauses = self._failed_in_a_row = self._ejections = 0
        self._latency: defaultdict[str, LatencyAverage] = defaultdict(LatencyAverage)

    def takes_calls(self, now: float) -> bool:
        """Return whether it can be called at the moment, ejected or not."""
        return self._is_there and now >= self._closed_until_s and self._has_room

    def is_full(self, now: float) -> bool:
        """Return whether it is up but has no room: it reported that, or has reached its concurrency limit."""
        return self._is_there and (now < self._full_until_s or not self._has_room)

    @property
    def _is_there(self) -> bool:
        return not self.leaving and (not self.down or self.starts_itself)

    @property
    def _has_room(self) -> bool:
        return len(self.attempts) + 1 <= self._room

    def ejected(self, now: float) -> bool:
        """Return whether it is ejected."""
        return now < self._ejected_until_s

    def reads(self, call: Call, now: float) -> bool:
        """Return whether it reads what a request holds, as far as is known."""
        return not call.has_images or now >= self._no_images_until_s

    def condition(self, now: float) -> str:
        """Return its state, as in `ReplicaStatus.state`."""
        if self.down:
            return "down"
        return "ejected" if self.ejected(now) else "paused" if now < self._closed_until_s else "serving"

    def opens_s(self) -> float:
        """Return when it can be called again, as far as is known; infinity if unknown."""
        return self._closed_until_s if self._is_there and self._has_room else math.inf

    # --- events ---

    def lose(self, why: str, *, gone: bool) -> None:
        """Record that a connection has broken or, if `gone`, that it accepts none any more."""
        self.losses += 1
        self.deaths += gone and not self._death_counted
        self._death_counted |= gone
        self.down, self.why_down = True, why

    def refuse(self, why: str) -> None:
        """Record that it reports not to be serving. Finishing its running calls does not change that."""
        self.down, self.why_down, self._unwilling = True, why, True

    def serve(self) -> None:
        """Record that it reports SERVING."""
        self.down, self.why_down, self._death_counted, self._unwilling = False, "", False, False

    def answer(self) -> None:
        """Record that it has answered a call."""
        self.known = True
        if not self._unwilling:
            self.serve()

    def pause(self, now: float) -> None:
        """Do not call it for a while, longer each consecutive time."""
        self._pauses += 1
        self._closed_until_s = now + min(MOST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(self._pauses - 1, 10))

    def fill(self, for_s: float, now: float) -> None:
        """Record that it has no room for another call of ours, and when it will have.

        From then on it gets no more concurrent calls than it had, so that calls wait in the pool, where callers take
        turns, and not at the replica. The limit grows slowly with each call that succeeds.
        """
        self._closed_until_s = self._full_until_s = now + for_s
        self._room = max(1, len(self.attempts) - 1)

    def refuse_images(self, now: float) -> None:
        """Record that it reads no images. Not for ever: it may be replaced, or given more memory."""
        self._no_images_until_s = now + NO_IMAGES_S

    def fail(self, now: float) -> None:
        """Record a failure that is the replica's fault; several in a row eject it for a while."""
        self.failures += 1
        self._failed_in_a_row += 1
        if self._failed_in_a_row >= EJECT_AFTER:
            self._failed_in_a_row = 0
            self._ejections += 1
            self._ejected_until_s = now + min(EJECT_MOST_S, EJECT_S * self._ejections)

    def succeed(self, attempt: Attempt, now: float) -> None:
        """Record a call that succeeded."""
        self._failed_in_a_row = self._pauses = 0
        self._room += 1 / max(self._room, SUCCESSES_FOR_MORE)
        if not self.ejected(now):
            self._ejections = max(0, self._ejections - 1)
        self.note_latency(attempt, now)

    # --- speed and load ---

    def latency(self, method: str) -> LatencyAverage:
        """Return its latency averages for a method."""
        return self._latency[method]

    def note_latency(self, attempt: Attempt, now: float) -> None:
        """Record the latency of an attempt that has ended or was taken from it."""
        wait_s = max(attempt.longest_wait_s, now - attempt.heard_s)
        self.latency(attempt.call.method).note(now - attempt.began_s, attempt.tokens, wait_s, now)

    @property
    def unread(self) -> list[Attempt]:
        """The attempts that wait for a first token, oldest first: their prompts are being read, or wait for that."""
        return [attempt for attempt in self.attempts if not attempt.tokens and attempt.call.race is not None]

    def expected(self, method: str, now: float, fastest: Fastest, *, unread: int = 1) -> float:
        """Return its outstanding work with one more call, in calls of the fastest replica.

        An unread call has the weight `unread`.
        """
        silent = (now - attempt.heard_s for attempt in self.attempts if attempt.call.method == method)
        calls = len(self.attempts) + 1 + ((unread - 1) * len(self.unread) if unread > 1 else 0)
        return calls * self.latency(method).slower(fastest, max(silent, default=0.0), now)
