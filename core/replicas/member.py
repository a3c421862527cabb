"""One replica as the pool sees it: how busy it is, how fast, and how well."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from typing import TYPE_CHECKING

from core.replicas.pace import Fastest, Pace
from core.replicas.status import ReplicaStatus

if TYPE_CHECKING:
    from core.backends import Replica
    from core.replicas.lease import Lease

EJECT_AFTER = 5
EJECT_S = 30.0
EJECT_MOST_S = 300.0
"""Envoy's figures: after so many failures in a row a replica is left out for 30 s times the number of ejections."""
SUCCESSES_FOR_MORE = 10
"""After so many calls that ended well, one more at a time is tried where it was full: each that is too many costs a
retry, and of those there is one for five calls."""
FIRST_PAUSE_S = 0.1
MOST_PAUSE_S = 1.0


class Member:
    """A replica among others. Not thread-safe: the replica set's lock is around it."""

    def __init__(self, replica: Replica) -> None:
        self.replica = replica
        self.leases: set[Lease] = set()
        self.known = replica.origin != "address"
        """Whether it has ever answered; what was found or started has said SERVING."""
        self.down = False
        self.why_down = ""
        self.deaths = 0
        """How often it was gone indeed, and not only a connection broken."""
        self.generation = 0
        """Connections of an older generation are not used for new calls: they may lead nowhere."""
        self.calls = self.failures = 0
        self._death_counted = False
        self._unwilling = False
        self.checked_s = 0.0
        """When it was last asked whether it is there, as its calls were silent."""
        self.leaving = False
        """It is not among the targets any more."""
        self._closed_until_s = 0.0
        self._full_until_s = 0.0
        self._room = math.inf
        """How many calls of ours it has room for; infinite until it has said once that it is full."""
        self._pauses = 0
        self._failed_in_a_row = 0
        self._ejections = 0
        self._ejected_until_s = 0.0
        self._paces: defaultdict[str, Pace] = defaultdict(Pace)

    @property
    def target(self) -> str:
        """Its address."""
        return self.replica.target

    @property
    def starts_itself(self) -> bool:
        """Whether it is a local process of ours, which is started when it is called."""
        return self.replica.origin == "embedded"

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
        return len(self.leases) + 1 <= self._room

    def ejected(self, now: float) -> bool:
        """Whether it is left out for its failures."""
        return now < self._ejected_until_s

    def opens_s(self) -> float:
        """When it can be called again as far as is known; infinite where nobody knows."""
        return self._closed_until_s if self._is_there and self._has_room else math.inf

    def status(self, now: float) -> ReplicaStatus:
        """How it is."""
        stopped = self.starts_itself and self.replica.pid is None
        state = "stopped" if stopped else "down" if self.down else "ejected" if self.ejected(now) else "serving"
        return ReplicaStatus(
            target=self.target,
            state="paused" if state == "serving" and now < self._closed_until_s else state,
            why=self.why_down,
            outstanding=len(self.leases),
            calls=self.calls,
            failures=self.failures,
            pid=self.replica.pid,
            restarts=self.replica.restarts,
            log=self.replica.log,
        )

    # --- what happens to it ---

    def lose(self, why: str, *, gone: bool) -> None:
        """A connection has broken, or, where it is `gone`, nobody takes one any more."""
        if gone and not self._death_counted:
            self.deaths += 1
            self._death_counted = True
        self.down, self.why_down = True, why
        self.replica.lost = True

    def unwilling(self, why: str) -> None:
        """It answers, and says that it does not serve now. What it still finishes is no sign that it takes more."""
        self.down, self.why_down, self._unwilling = True, why, True

    def serves(self) -> None:
        """It says SERVING."""
        self.down, self.why_down, self._death_counted, self._unwilling = False, "", False, False
        self.replica.lost = False

    def answers(self) -> None:
        """It has answered a call."""
        self.known = True
        if not self._unwilling:
            self.serves()

    def pause(self) -> None:
        """It is not called for a moment, a longer one each time in a row."""
        self._pauses += 1
        pause_s = min(MOST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(self._pauses - 1, 10))
        self._closed_until_s = time.monotonic() + pause_s

    def full(self, for_s: float) -> None:
        """It has no room for a call of ours beside the others, and says when it will have.

        From then on it gets no more calls at a time than it had, so that those that wait do so here, where callers take
        turns, and not in a crowd at its door. With each call that ends well there may be a little more of them.
        """
        self._closed_until_s = self._full_until_s = time.monotonic() + for_s
        self._room = max(1, len(self.leases) - 1)

    def failed(self) -> None:
        """A call failed through its fault; after some in a row it is left out for a while."""
        self.failures += 1
        self._failed_in_a_row += 1
        if self._failed_in_a_row >= EJECT_AFTER:
            self._failed_in_a_row = 0
            self._ejections += 1
            self._ejected_until_s = time.monotonic() + min(EJECT_MOST_S, EJECT_S * self._ejections)

    def succeeded(self, lease: Lease) -> None:
        """A call ended well."""
        self._failed_in_a_row = self._pauses = 0
        self._room += 1 / max(self._room, SUCCESSES_FOR_MORE)
        self._ejections = max(0, self._ejections - 1) if not self.ejected(time.monotonic()) else self._ejections
        self.note_pace(lease)

    def note_pace(self, lease: Lease) -> None:
        """So fast was a call here."""
        self.pace(lease.call.method).note(lease, time.monotonic())

    # --- what speaks for it ---

    def pace(self, method: str) -> Pace:
        """How fast it answers calls of a method."""
        return self._paces[method]

    def expected(self, method: str, now: float, fastest: Fastest) -> float:
        """The work that is outstanding here with one call more, in calls of the fastest replica."""
        silent_s = max((now - lease.heard_s for lease in self.leases if lease.call.method == method), default=0.0)
        return (len(self.leases) + 1) * self.pace(method).slower(fastest, silent_s, now)
