"""The threads of a replica set: one keeps time, one resolves names, and others watch the health of replicas.

A single replica is only watched while it is down, as there is no choice. With several replicas, each has a thread that
watches its health by the standard protocol. A replica with silent calls is probed in a separate thread, so that no
probe waits for another.
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
"""Resolves the current addresses."""

LOOK_EVERY_S = 5.0
LOOK_HERE_EVERY_S = 0.5
"""How often servers on this host are looked for while there are calls."""
CHECK_TIMEOUT_S = 2.0
_FIRST_WAIT_S = 0.1
_MOST_WAIT_S = 1.0


class Watcher:
    """Runs the threads described above, from the first call until `close`.

    Args:
        spec: The skill.
        tell: Receives events.
        due_s: Returns when the next `Tick` must come.
        is_watched: Returns whether to watch a replica's health.
        look: Resolves the current targets; None if they do not change.
        looks_often: Returns whether a new target would be of use at once.
    """

    def __init__(
        self,
        spec: SkillSpec,
        *,
        tell: Callable[[Event], None],
        due_s: Callable[[], float],
        is_watched: Callable[[Replica], bool],
        look: Look | None,
        looks_often: Callable[[], bool],
    ) -> None:
        self._looks_often = looks_often
        self._spec, self._tell, self._due_s, self._is_watched, self._look = spec, tell, due_s, is_watched, look
        self._lock = threading.Lock()
        self._watched: dict[Replica, HealthFeed | None] = {}
        self._alarm = threading.Event()
        self._sleeps_until_s = math.inf
        self._closing = threading.Event()
        self._started = False

    def wake_by(self, due_s: float) -> None:
        """Send a `Tick` by then; infinity requests none."""
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
        """End the threads without waiting for them."""
        self._closing.set()
        self._alarm.set()
        with self._lock:
            feeds = [feed for feed in self._watched.values() if feed is not None]
        for feed in feeds:
            feed.cancel()

    # --- time ---

    def _keep_time(self) -> None:
        while not self._closing.is_set():
            self._sleeps_until_s = math.inf  # changes from here on wake it
            self._sleeps_until_s = due_s = self._due_s()
            self._alarm.wait(None if math.isinf(due_s) else max(0.0, due_s - time.monotonic()))
            self._sleeps_until_s = -math.inf
            self._alarm.clear()
            self._safely(partial(self._tell, Tick()))

    def _look_up(self, look: Look) -> None:
        looked_s = time.monotonic()
        while not self._closing.wait(LOOK_HERE_EVERY_S):
            if self._looks_often() or time.monotonic() >= looked_s + LOOK_EVERY_S:
                looked_s = time.monotonic()
                self._safely(lambda: self._tell(Targets(look())))

    def _safely(self, step: Callable[[], _T]) -> _T | None:
        """Run a step of a thread that must survive any error; return None if it failed."""
        try:
            return step()
        except Exception as error:  # noqa: BLE001  # whatever it is
            name = self._spec.name
            _log.warning("skill %r: watching its replicas failed, and continues: %r", name, error, exc_info=True)
            return None

    # --- one replica's health ---

    def watch(self, replica: Replica) -> None:
        """Watch a replica's health unless it is watched already; start again if it is down, stop if it is leaving."""
        with self._lock:
            feed = self._watched.get(replica)
            if replica not in self._watched and not (self._closing.is_set() or replica.leaving):
                self._watched[replica] = None
                _thread(partial(self._watch, replica), "sarai-health")
        if feed is not None and (replica.down or replica.leaving):
            feed.cancel()  # its connection may be dead

    def _watch(self, replica: Replica) -> None:
        wait_s = _FIRST_WAIT_S
        while self._goes_on(replica):
            if self._safely(partial(self._watch_once, replica)):
                wait_s = _FIRST_WAIT_S
            if self._goes_on(replica):
                self._closing.wait(random.uniform(wait_s / 2, wait_s))  # noqa: S311  # jitter
                wait_s = min(_MOST_WAIT_S, 2 * wait_s)

    def _goes_on(self, replica: Replica) -> bool:
        """Return whether to keep watching a replica; if not, it counts as unwatched from here on."""
        with self._lock:
            goes_on = not self._closing.is_set() and self._is_watched(replica)
            if not goes_on:
                self._watched.pop(replica, None)
            return goes_on

    def _watch_once(self, replica: Replica) -> bool:
        """Report a replica's health until its stream ends; return whether it was SERVING."""
        served = False

        def tell(serving: bool) -> bool:
            nonlocal served
            served = served or serving
            self._tell(HealthTold(replica, serving))
            return self._is_watched(replica)

        feed = HealthFeed(replica.target, self._spec.health_service)
        with self._lock:
            self._watched[replica] = feed
        if not (self._closing.is_set() or replica.leaving):  # otherwise a close may have come too early to cancel it
            feed.watch(tell)
        with self._lock:
            self._watched[replica] = None
        if feed.ended is grpc.StatusCode.UNIMPLEMENTED:  # it has no health service: calls will show
            self._tell(HealthTold(replica, serving=True))
            self._closing.wait(LOOK_EVERY_S)
        elif feed.ended not in (None, grpc.StatusCode.CANCELLED):
            self._tell(HealthTold(replica, serving=False, why=feed.why))
        return served

    # --- silent calls ---

    def probe(self, attempt: Attempt, since_s: float) -> None:
        """Probe the replica of a silent attempt over its connection and, if that is silent, over a new one."""
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
