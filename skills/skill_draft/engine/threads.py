"""Choose how many threads to use at the moment.

llama.cpp's threads meet at a spinning barrier several hundred times a token: one that lacks its core makes the others
wait, and under CPU contention two threads are slower than one, by up to ten times. The kernel's counters show
contention; whether another count is faster is measured, and the faster one is kept. The number of threads does not
change the bits.
"""

from __future__ import annotations

import copy
import statistics
from typing import Protocol

from .contention import Reading
from .costs import StepCosts

# A step in which the count changes also wakes threads or waits for them, and tells nothing about the next steps. So a
# count is tried for this many steps, and the first of them is ignored.
TRIAL_STEPS = 4
FASTER = 0.92
MUCH_SLOWER = 1.3
# Fewer threads are tried when ours wait for at least this many CPUs (a busy neighbour: 1.0; our own server: 0.1), more
# of them when at least this many CPUs are idle.
CONTENDED = 0.35
MOSTLY_IDLE = 0.6
# Consecutive readings that must agree: a single one may catch a short-lived process.
LOOKS = 2
# Least and most time until a count that was no faster is tried again; it doubles until contention changes.
AGAIN_S = (1.0, 30.0)
# Without the kernel's counters, trials cost at most a thirtieth of the time.
BLIND_PAUSE_S = 1.0
BLIND_COST = 30.0


class Meter(Protocol):
    """Measures CPU contention."""

    counts: bool
    """Whether it can."""

    def look(self, now: float) -> Reading | None:
        """Return the next reading, or None if it is too early for one."""


class Threads:
    """Chooses the number of threads of each step, and knows what steps cost with each."""

    def __init__(self, limit: int, meter: Meter) -> None:
        """`limit` is the most threads that may be used."""
        self._counts = _counts_to(limit)
        self._costs = {n: StepCosts() for n in self._counts}
        self._meter = meter
        self.current = self._last = limit
        self._wanted = 0  # -1: contention, fewer threads; 1: idle CPUs, more
        self._looks = 0  # consecutive readings that agree with it
        self._pause_s, self._next_trial = AGAIN_S[0], 0.0
        self._trial: int | None = None
        self._ratios: list[float] = []  # of the trial's steps: time taken / expected time with the current count
        self._trial_cost_s = 0.0

    def set_limit(self, limit: int) -> None:
        """Change the limit and use that many threads from the next step on."""
        self._counts = _counts_to(limit)
        self._costs = {n: self._costs.get(n) or copy.deepcopy(self.costs) for n in self._counts}
        self.current = limit
        self._trial, self._wanted, self._looks = None, 0, 0

    @property
    def costs(self) -> StepCosts:
        """Step costs with the current number of threads."""
        return self._costs[self.current]

    def for_next_step(self, now: float) -> int:
        """Return the number of threads for the next step: the current one, or one to try."""
        if self._trial is None and len(self._counts) > 1:
            self._look(now)
            if now >= self._next_trial and self.costs.known:
                self._trial = self._candidate()
                self._ratios, self._trial_cost_s = [], 0.0
        return self._trial or self.current

    def _look(self, now: float) -> None:
        reading = self._meter.look(now)
        if reading is None:
            return
        wanted = -1 if reading.waited >= CONTENDED else int(reading.idle >= MOSTLY_IDLE)
        self._looks = self._looks + 1 if wanted == self._wanted else 1
        self._wanted = wanted
        if self._looks == LOOKS:  # something has changed
            self._pause_s, self._next_trial = AGAIN_S[0], now

    def _candidate(self) -> int | None:
        """Return a count worth trying now, if any."""
        at = self._counts.index(self.current)
        if not self._meter.counts:
            return self._counts[at - 1] if at else self._counts[1]
        to = at + (self._wanted if self._looks >= LOOKS else 0)
        return self._counts[to] if to != at and 0 <= to < len(self._counts) else None

    def observe(self, n: int, rows: int, ms: float, now: float) -> None:
        """Record that a step of `rows` rows took `ms` with `n` threads and ended at `now`."""
        changed, self._last = n != self._last, n
        if n == self.current:
            if not changed:
                self.costs.observe(rows, ms, now)
            return
        usual = self.costs.ms(rows)
        self._trial_cost_s += max(0.0, ms - usual) / 1000
        if not changed:
            self._costs[n].observe(rows, ms, now)
            self._ratios.append(ms / usual)
            if len(self._ratios) == TRIAL_STEPS - 1 or ms > MUCH_SLOWER * usual:
                self._conclude(n, now)

    def _conclude(self, n: int, now: float) -> None:
        """End the trial, and keep the count that was tried if it was faster."""
        self._trial = None
        if statistics.median(self._ratios) < FASTER:
            self.current, self._pause_s, self._next_trial = n, AGAIN_S[0], now
        else:
            self._next_trial, self._pause_s = now + self._pause_s, min(2 * self._pause_s, AGAIN_S[1])
        if not self._meter.counts:
            self._next_trial = now + max(BLIND_PAUSE_S, BLIND_COST * self._trial_cost_s)


def _counts_to(limit: int) -> list[int]:
    """Return the numbers of threads worth trying, ascending."""
    steps = range(1, limit + 1) if limit <= 4 else (1, limit // 4, limit // 2, 3 * limit // 4, limit)
    return sorted({n for n in steps if n})
