"""One replica as the pool sees it: how busy it is, how fast, and how well."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

from core.replicas.lease import Lease
from core.replicas.status import ReplicaStatus

if TYPE_CHECKING:
    from core.backends import Replica

EJECT_AFTER = 5
EJECT_S = 30.0
EJECT_MOST_S = 300.0
"""Envoy's figures: after so many failures in a row a replica is left out for 30 s times the number of ejections."""
FIRST_PAUSE_S = 0.1
MOST_PAUSE_S = 1.0
PACE_FORGOTTEN_S = 30.0
_PACE_WEIGHT = 0.3
_CLEARLY_SLOWER = 2.0


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
        self.leaving = False
        """It is not among the targets any more."""
        self._closed_until_s = 0.0
        self._pauses = 0
        self._failed_in_a_row = 0
        self._ejections = 0
        self._ejected_until_s = 0.0
        self._pace_s: dict[str, tuple[float, float]] = {}

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
        return not self.leaving and (not self.down or self.starts_itself) and now >= self._closed_until_s

    def ejected(self, now: float) -> bool:
        """Whether it is left out for its failures."""
        return now < self._ejected_until_s

    def opens_s(self) -> float:
        """When it can be called again as far as is known; infinite where nobody knows."""
        return math.inf if self.leaving or (self.down and not self.starts_itself) else self._closed_until_s

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
        """It has no room, and says when it will have."""
        self._closed_until_s = time.monotonic() + for_s

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
        self._ejections = max(0, self._ejections - 1) if not self.ejected(time.monotonic()) else self._ejections
        now = time.monotonic()
        pace = (now - lease.began_s) / max(1, lease.tokens)
        before, _ = self._pace_s.get(lease.call.method, (pace, now))
        self._pace_s[lease.call.method] = (before + _PACE_WEIGHT * (pace - before), now)

    # --- what speaks for it ---

    def pace_s(self, method: str, now: float) -> float:
        """Seconds for a token of an answer: an average that is forgotten, so that who was slow is tried again.

        Who has been silent for longer than that is at least that slow.
        """
        average, noted_s = self._pace_s.get(method, (0.0, now))
        silent_s = max((now - lease.heard_s for lease in self.leases if lease.call.method == method), default=0.0)
        return max(average * math.exp(-(now - noted_s) / PACE_FORGOTTEN_S), silent_s)

    def expected(self, method: str, now: float, best_pace_s: float) -> float:
        """The work that is outstanding here with one call more, in calls of the fastest replica.

        Speeds within a factor of 2 count as equal: they are the noise of different prompts.
        """
        slower = self.pace_s(method, now) / best_pace_s if best_pace_s > 0 else 1.0
        return (len(self.leases) + 1) * (slower if slower > _CLEARLY_SLOWER else 1.0)
