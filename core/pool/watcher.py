"""The threads of a replica set: one keeps time, one looks up names, and some follow the health of replicas.

A replica alone is followed only while it is away: there is nothing to choose. Among several each has a thread that
follows its health by the standard protocol. A replica whose calls are silent is probed in a thread of its own, so that
nobody waits for somebody else's answer.
"""

from __future__ import annotations

import logging
import math
import random
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from core.pool.events import Event, HealthTold, Probed, Targets, Tick
from core.pool.records import Attempt, Replica
from core.rpc import grpc
from core.rpc.health import HealthFeed, why_silent

if TYPE_CHECKING:
    from core.skill import SkillSpec

_T = TypeVar("_T")
_log = logging.getLogger(__name__)

Look = Callable[[], Sequence[str]]
"""Finds the addresses that are there now."""

LOOK_EVERY_S = 5.0
CHECK_TIMEOUT_S = 2.0
_FIRST_WAIT_S = 0.1
_MOST_WAIT_S = 1.0


class Watcher:
    """See above. Its threads begin with the first call, and end with `close`.

    Args:
        spec: the skill.
        tell: takes what has happened.
        due_s: when the next `Tick` has to come.
        is_followed: whether a replica's health matters.
        look: finds the targets that are there now; None where they do not change.
    """

    def __init__(
        self,
        spec: SkillSpec,
        *,
        tell: Callable[[Event], None],
        due_s: Callable[[], float],
        is_followed: Callable[[Replica], bool],
        look: Look | None,
    ) -> None:
        self._spec, self._tell, self._due_s, self._is_followed, self._look = spec, tell, due_s, is_followed, look
        self._lock = threading.Lock()
        self._followed: dict[Replica, HealthFeed | None] = {}
        self._alarm = threading.Event()
        self._sleeps_until_s = math.inf
        self._closing = threading.Event()
        self._started = False

    def wake_by(self, due_s: float) -> None:
        """Have a `Tick` come by then; infinity asks for none."""
        if due_s < self._sleeps_until_s:
            self._alarm.set()
            if not self._started:
                self._start()

    def _start(self) -> None:
        with self._lock:
            if self._started or self._closing.is_set():
                return
            _thread(self._keep_time, "sarai-replicas")
            if self._look is not None:
                _thread(partial(self._look_up, self._look), "sarai-names")
            self._started = True

    def close(self) -> None:
        """End the threads, without waiting for them."""
        self._closing.set()
        self._alarm.set()
        with self._lock:
            feeds = [feed for feed in self._followed.values() if feed is not None]
        for feed in feeds:
            feed.cancel()

    # --- time ---

    def _keep_time(self) -> None:
        while not self._closing.is_set():
            self._sleeps_until_s = math.inf  # what changes from here on sets the alarm
            self._sleeps_until_s = due_s = self._due_s()
            self._alarm.wait(None if math.isinf(due_s) else max(0.0, due_s - time.monotonic()))
            self._sleeps_until_s = -math.inf
            self._alarm.clear()
            self._safely(partial(self._tell, Tick()))

    def _look_up(self, look: Look) -> None:
        while not self._closing.wait(LOOK_EVERY_S):
            self._safely(lambda: self._tell(Targets(look())))

    def _safely(self, step: Callable[[], _T]) -> _T | None:
        """Do a step of a thread that has to go on whatever comes of it. None where it failed."""
        try:
            return step()
        except Exception as error:  # noqa: BLE001  # whatever it is
            name = self._spec.name
            _log.warning("skill %r: looking after its replicas failed, and goes on: %r", name, error, exc_info=True)
            return None

    # --- one replica's health ---

    def follow(self, replica: Replica) -> None:
        """Follow a replica's health, if that is not done already; anew if it is down, no more if it is leaving."""
        with self._lock:
            feed = self._followed.get(replica)
            if replica not in self._followed and not (self._closing.is_set() or replica.leaving):
                self._followed[replica] = None
                _thread(partial(self._follow, replica), "sarai-health")
        if feed is not None and (replica.down or replica.leaving):
            feed.cancel()  # the connection that it has may be a dead one

    def _follow(self, replica: Replica) -> None:
        wait_s = _FIRST_WAIT_S
        while self._goes_on(replica):
            if self._safely(partial(self._follow_once, replica)):
                wait_s = _FIRST_WAIT_S
            if self._goes_on(replica):
                self._closing.wait(random.uniform(wait_s / 2, wait_s))  # noqa: S311  # jitter
                wait_s = min(_MOST_WAIT_S, 2 * wait_s)

    def _goes_on(self, replica: Replica) -> bool:
        """Whether there is something to follow; if not, this is no longer followed from here on."""
        with self._lock:
            goes_on = not self._closing.is_set() and self._is_followed(replica)
            if not goes_on:
                self._followed.pop(replica, None)
            return goes_on

    def _follow_once(self, replica: Replica) -> bool:
        """Report what the replica says until it says nothing any more. Returns whether it was SERVING."""
        served = False

        def tell(serving: bool) -> bool:
            nonlocal served
            served = served or serving
            self._tell(HealthTold(replica, serving))
            return self._is_followed(replica)

        feed = HealthFeed(replica.target, self._spec.health_service)
        with self._lock:
            self._followed[replica] = feed
        if not (self._closing.is_set() or replica.leaving):  # else whoever ends it may have been too early to see it
            feed.follow(tell)
        with self._lock:
            self._followed[replica] = None
        if feed.ended is grpc.StatusCode.UNIMPLEMENTED:  # it cannot be asked: calls will show
            self._tell(HealthTold(replica, serving=True))
            self._closing.wait(LOOK_EVERY_S)
        elif feed.ended not in (None, grpc.StatusCode.CANCELLED):
            self._tell(HealthTold(replica, serving=False, why=feed.why))
        return served

    # --- silent calls ---

    def probe(self, attempt: Attempt, since_s: float) -> None:
        """Ask the replica of a silent attempt over its connection and, if that is silent, over a new one."""
        _thread(partial(self._probe, attempt, since_s), "sarai-silence")

    def _probe(self, attempt: Attempt, since_s: float) -> None:
        replica, spec = attempt.replica, self._spec
        dead = bool(attempt.probe is not None and self._safely(attempt.probe))
        ask = partial(why_silent, replica.target, spec.health_service, timeout_s=CHECK_TIMEOUT_S)
        why = self._safely(ask) if dead else ""
        if not self._closing.is_set():
            self._safely(partial(self._tell, Probed(replica, since_s, dead, why or "")))


def _thread(run: Callable[[], None], name: str) -> None:
    threading.Thread(target=run, name=name, daemon=True).start()
