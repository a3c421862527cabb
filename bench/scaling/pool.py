"""The pool's choice of a replica (`core.pool.balance.choose`) over arrays, for a thousand replicas."""

from __future__ import annotations

import itertools
import math

import numpy as np

from core.pool.balance import MOVED_AFTER_S, UNREAD
from core.pool.latency import _WEIGHT, CLEARLY_SLOWER, FORGOTTEN_S, LEAST_WAIT_S


class Pool:
    """The replicas that take calls, and what the pool knows of each: the figures of `core.pool.records.Replica`."""

    def __init__(self, room: int = 64) -> None:
        self._open = np.zeros(room, bool)
        self._calls = np.zeros(room)
        self._unread = np.zeros(room)
        self._silent_since = np.full(room, math.inf)
        self._seconds, self._tokens, self._waits, self._ended, self._noted = (np.zeros(room) for _ in range(5))
        self._free: list[int] = []
        self._used = 0
        self._reading: list[dict[int, float]] = [{} for _ in range(room)]
        self._shared: set[int] = set()
        """Places at which calls wait behind another prompt."""

    def join(self) -> int:
        """Add a replica; return its place."""
        if self._free:
            at = self._free.pop()
        else:
            at = self._used
            self._used += 1
            if at == len(self._open):
                self._grow()
        self._open[at] = True
        self._calls[at] = self._unread[at] = 0
        self._silent_since[at] = math.inf
        self._reading[at] = {}
        self._shared.discard(at)
        for array in (self._seconds, self._tokens, self._waits, self._ended, self._noted):
            array[at] = 0.0
        return at

    def _grow(self) -> None:
        for name in (
            "_open",
            "_calls",
            "_unread",
            "_silent_since",
            "_seconds",
            "_tokens",
            "_waits",
            "_ended",
            "_noted",
        ):
            array = getattr(self, name)
            setattr(self, name, np.concatenate((array, np.zeros_like(array))))
        self._reading += [{} for _ in range(len(self._reading))]

    def close(self, at: int) -> None:
        """Give a replica no more calls."""
        self._open[at] = False

    def leave(self, at: int) -> None:
        """Forget a replica."""
        self._open[at] = False
        self._free.append(at)

    def choose(self, now: float) -> int:
        """Return the place of the replica for a call, -1 if none takes calls."""
        used = slice(0, self._used)
        open_ = self._open[used]
        places = np.flatnonzero(open_)
        if not len(places):
            return -1
        ended = self._ended[places]
        seconds, tokens = self._seconds[places], self._tokens[places]
        with np.errstate(divide="ignore", invalid="ignore"):
            token_s = np.where(tokens > 0, seconds / tokens, math.inf)
            fastest_token = float(token_s.min())
            fastest_wait = float(np.where(ended > 0, self._waits[places] / ended, math.inf).min())
            was = np.where((tokens > 0) & (fastest_token > 0), token_s / fastest_token, 1.0)
        was = 1.0 + (was - 1.0) * np.exp((self._noted[places] - now) / FORGOTTEN_S)
        is_ = np.maximum(0.0, now - self._silent_since[places]) / max(fastest_wait, LEAST_WAIT_S)
        slower = np.maximum(was, is_)
        slower[slower <= CLEARLY_SLOWER] = 1.0
        weight = self._calls[places] + (UNREAD - 1.0) * self._unread[places] + 1
        return int(places[np.argmin(weight * slower)])

    def misplaced(self, now: float, moved: set[int]) -> tuple[int, int, int] | None:
        """Return a call, its place, and the place where it would be read sooner, as `core.pool.balance.misplaced`."""
        if not self._shared:
            return None
        free = np.flatnonzero(self._open & (self._unread == 0))
        if not len(free):
            return None
        waiting = [
            (len(calls), began_s, key, at)
            for at in self._shared
            if self._open[at]
            for calls in (self._reading[at],)
            for key, began_s in itertools.islice(calls.items(), 1, None)
            if key not in moved and now - began_s >= MOVED_AFTER_S
        ]
        if not waiting:
            return None
        _, _, key, at = max(waiting)
        return key, int(at), int(free[np.argmin(self._calls[free])])

    def begin(self, at: int, key: int, now: float) -> None:
        """Note a call that is sent to a replica."""
        self._calls[at] += 1
        self._unread[at] += 1
        reading = self._reading[at]
        reading[key] = now
        if len(reading) > 1:
            self._shared.add(at)
        self._silent_since[at] = min(reading.values())

    def hear(self, at: int, key: int) -> None:
        """Note a call's first token."""
        reading = self._reading[at]
        if reading.pop(key, None) is not None:
            self._unread[at] -= 1
            if len(reading) < 2:
                self._shared.discard(at)
            self._silent_since[at] = min(reading.values(), default=math.inf)

    def lose(self, at: int, key: int) -> None:
        """Note a call that goes on elsewhere."""
        self.hear(at, key)
        self._calls[at] -= 1

    def end(self, at: int, key: int, now: float, *, seconds: float, tokens: int, wait_s: float) -> None:
        """Note a call that has its answer."""
        self.lose(at, key)
        keep = 1.0 - _WEIGHT
        self._seconds[at] = keep * self._seconds[at] + seconds
        self._tokens[at] = keep * self._tokens[at] + max(1, tokens)
        self._waits[at] = keep * self._waits[at] + wait_s
        self._ended[at] = keep * self._ended[at] + 1
        self._noted[at] = now
