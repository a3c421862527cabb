"""Follows the health of replicas, so that who drains, hangs or is gone gets no new call, and who is back gets some.

A replica alone is followed only while it is away: there is nothing to choose. Among several each has a thread that
follows its health by the standard protocol. One more thread looks after calls that have become silent: their replica
may hang, or only their connection be dead. Each silent replica is asked in a thread of its own, and names are looked up
in one more, so that nobody waits for somebody else's answer.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from core.backends.health import HealthFeed, why_silent
from core.quiet_grpc import grpc

if TYPE_CHECKING:
    from core.replicas.member import Member
    from core.replicas.replica_set import ReplicaSet

_T = TypeVar("_T")
_log = logging.getLogger(__name__)

Look = Callable[[], Sequence[str]]
"""Finds the addresses that are there now."""

LOOK_EVERY_S = 5.0
SILENT_S = 2.0
"""A call that has heard nothing for so long has its replica's health checked."""
CHECK_TIMEOUT_S = 2.0
_TICK_S = 0.25
_HEDGE_TICK_S = 0.01
_FIRST_WAIT_S = 0.1
_MOST_WAIT_S = 1.0


class Watcher:
    """The threads that follow the replicas of a set.

    Args:
        replicas: the set.
        look: finds the targets that are there now; None where they do not change.
    """

    def __init__(self, replicas: ReplicaSet, look: Look | None) -> None:
        self._set = replicas
        self._look = look
        self._lock = threading.Lock()
        self._followed: dict[Member, HealthFeed | None] = {}
        self._checking: set[Member] = set()
        self._busy = threading.Event()
        self._waited_for = threading.Event()
        self._closing = threading.Event()
        self._started = False

    @property
    def _choice(self) -> bool:
        return self._look is not None or len(self._set.members) > 1

    def start(self) -> None:
        """Calls are made: follows the replicas where there is a choice among them. Again takes microseconds."""
        self._busy.set()
        self._waited_for.set()
        if self._started:
            return
        with self._lock:
            first, self._started = not self._started, True
        if not first or self._closing.is_set():
            return
        _thread(self._look_after, "sarai-replicas")
        if self._look is not None:
            _thread(partial(self._look_up, self._look), "sarai-names")
        if self._set.config.hedge_s:
            _thread(self._hedge, "sarai-hedges")
        if self._choice:
            for member in self._set.members:
                self.watch(member)

    def watch(self, member: Member) -> None:
        """Follows a replica, if that is not done already."""
        if member.starts_itself:
            return
        with self._lock:
            feed = self._followed.get(member)
            if member not in self._followed and not self._closing.is_set():
                self._followed[member] = None
                _thread(partial(self._follow, member), "sarai-health")
        if feed is not None and member.down:
            feed.cancel()  # the connection that it has may be a dead one

    def unwatch(self, member: Member) -> None:
        """Stops following a replica that is leaving."""
        with self._lock:
            feed = self._followed.get(member)
        if feed is not None:
            feed.cancel()

    def close(self) -> None:
        """Ends the threads, without waiting for them."""
        self._closing.set()
        self._busy.set()
        self._waited_for.set()
        with self._lock:
            feeds = [feed for feed in self._followed.values() if feed is not None]
        for feed in feeds:
            feed.cancel()

    # --- one replica's health ---

    def _follow(self, member: Member) -> None:
        wait_s = _FIRST_WAIT_S
        while self._goes_on(member):
            if self._safely(partial(self._follow_once, member)):
                wait_s = _FIRST_WAIT_S
            if self._goes_on(member):
                self._closing.wait(random.uniform(wait_s / 2, wait_s))  # noqa: S311  # jitter
                wait_s = min(_MOST_WAIT_S, 2 * wait_s)

    def _goes_on(self, member: Member) -> bool:
        """Whether there is something to follow; if not, this is no longer followed from here on."""
        # Asked before: it takes the set's lock, which others hold while they call `watch`.
        choice = self._choice
        with self._lock:
            goes_on = not (self._closing.is_set() or member.leaving) and (member.down or choice)
            if not goes_on:
                self._followed.pop(member, None)
            return goes_on

    def _follow_once(self, member: Member) -> bool:
        """Reports what the replica says until it says nothing any more. Returns whether it was SERVING."""
        served = False

        def tell(serving: bool) -> bool:
            nonlocal served
            served = served or serving
            self._set.health(member, serving, "")
            return self._choice or not serving

        feed = HealthFeed(member.target, self._set.spec.health_service)
        with self._lock:
            self._followed[member] = feed
        if not (self._closing.is_set() or member.leaving):  # else whoever ends it may have been too early to see it
            feed.follow(tell)
        with self._lock:
            self._followed[member] = None
        if feed.ended is grpc.StatusCode.UNIMPLEMENTED:  # it cannot be asked: calls will show
            self._set.health(member, True, "")
            self._closing.wait(LOOK_EVERY_S)
        elif feed.ended not in (None, grpc.StatusCode.CANCELLED):
            self._set.health(member, False, feed.why)
        return served

    # --- silent calls, and who is there ---

    def _look_after(self) -> None:
        while self._rest(self._busy, _TICK_S):
            self._safely(self._check_silent)

    def _look_up(self, look: Look) -> None:
        while not self._closing.wait(LOOK_EVERY_S):
            self._safely(partial(self._follow_names, look))

    def _follow_names(self, look: Look) -> None:
        self._set.update(look())
        for member in self._set.members:
            self.watch(member)

    def _hedge(self) -> None:
        while self._rest(self._waited_for, max(_HEDGE_TICK_S, self._set.config.hedge_s / 8)):
            self._safely(self._set.hedge)

    def _safely(self, step: Callable[[], _T]) -> _T | None:
        """One step of a thread that has to go on whatever comes of it. None where it failed."""
        try:
            return step()
        except Exception as error:  # noqa: BLE001  # whatever it is
            name = self._set.spec.name
            _log.warning("skill %r: looking after its replicas failed, and goes on: %r", name, error, exc_info=True)
            return None

    def _rest(self, called: threading.Event, tick_s: float) -> bool:
        """A tick while calls run; without any until one begins. Returns whether to go on."""
        called.clear()  # before it is asked: a call that begins now either is seen or sets it again
        if self._closing.is_set():
            return False
        if self._set.outstanding:
            self._closing.wait(tick_s)
        else:
            called.wait()
        return not self._closing.is_set()

    def _check_silent(self) -> None:
        for member in self._set.with_calls:
            self._check_if_silent(member)

    def _check_if_silent(self, member: Member) -> None:
        now = time.monotonic()
        silent = [lease for lease in tuple(member.leases) if now - lease.heard_s >= SILENT_S]
        for lease in silent:
            if lease.tell_lost_end is not None:
                lease.tell_lost_end()
        rests = member.starts_itself or member.down or now - member.checked_s < SILENT_S / 2
        if not silent or rests or member in self._checking:
            return
        # The longest silent one speaks for all: they share a connection, or are soon asked again.
        ask = min(silent, key=lambda lease: lease.heard_s).is_silent
        if ask is not None:
            self._checking.add(member)
            check = partial(self._check, member, ask, now - SILENT_S)
            _thread(partial(self._safely, check), "sarai-silence")

    def _check(self, member: Member, ask: Callable[[], bool], silent_since_s: float) -> None:
        """Calls go on over a new connection where the old one was dead, elsewhere where that one is silent too."""
        try:
            if not ask():
                return
            why = why_silent(member.target, self._set.spec.health_service, timeout_s=CHECK_TIMEOUT_S)
            if not why:
                self._set.break_off(member, "its connection was dead", silent_since_s=silent_since_s)
            elif (self._choice or member.leaving) and not self._closing.is_set():
                self._set.silent(member, why)
        finally:
            member.checked_s = time.monotonic()
            self._checking.discard(member)


def _thread(run: Callable[[], None], name: str) -> threading.Thread:
    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    return thread
