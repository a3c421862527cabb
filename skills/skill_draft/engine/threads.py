"""How many threads pay just now.

llama.cpp's threads meet at a spinning barrier several hundred times a token: whoever lacks its core makes the others
wait, and beside a busy neighbour two threads are slower than one, by up to ten times. So steps are measured, another
count is tried now and then, and the faster one is followed. The number of threads does not change the bits.
"""

from __future__ import annotations

import statistics

from .costs import StepCosts

FIRST_PROBE_STEPS = 4
# A step in which the count changes wakes threads up, or waits for them, and says nothing about the next ones. So a
# count is tried for so many steps, and the first of them is not looked at.
TRIAL_STEPS = 4
# Below the most threads, or slower than it used to be: another try within these bounds, so that it costs a few percent.
PROBE_S = (0.5, 2.0)
PROBE_COST = 30.0
# Nothing to be gained: all threads run, at the speed that was seen before.
QUIET_PROBE_S = 30.0
SLOWER = 1.3
FASTER = 0.92


class Threads:
    """Chooses the number of threads of each step, and knows what steps cost with each."""

    def __init__(self, limit: int) -> None:
        """`limit` is the most that may be used."""
        steps = range(1, limit + 1) if limit <= 4 else (1, limit // 4, limit // 2, 3 * limit // 4, limit)
        self._counts = sorted({n for n in steps if n})
        self._costs = {n: StepCosts() for n in self._counts}
        self._best: dict[int, float] = {}  # by class of rows, the least that a step has cost
        self.current = limit
        self._last = limit
        self._trial: int | None = None
        self._ratios: list[float] = []  # of the trial's steps: what one took, by what it takes with the current count
        self._trial_cost_s = 0.0
        self._steps = 0
        self._probes = 0
        self._next_probe = 0.0

    @property
    def costs(self) -> StepCosts:
        """What steps cost with the current number."""
        return self._costs[self.current]

    def for_next_step(self, now: float) -> int:
        """The number for the next step: the current one, or one to try."""
        self._steps += 1
        if self._trial is not None:
            return self._trial
        if len(self._counts) < 2 or self._steps < FIRST_PROBE_STEPS or now < self._next_probe:
            return self.current
        at = self._counts.index(self.current)
        neighbours = [n for n in self._counts[max(0, at - 1) : at + 2] if n != self.current]
        self._probes += 1
        self._trial, self._ratios, self._trial_cost_s = neighbours[self._probes % len(neighbours)], [], 0.0
        return self._trial

    def observe(self, n: int, rows: int, ms: float, now: float) -> None:
        """Takes in a step of `rows` rows with `n` threads that took `ms`."""
        changed, self._last = n != self._last, n
        usual, was_known = self.costs.ms(rows), self.costs.known
        if n != self.current:
            self._trial_cost_s += max(0.0, ms - usual) / 1000
        if not changed:
            self._costs[n].observe(rows, ms, now)
            if n != self.current:
                self._ratios.append(ms / usual)
                if len(self._ratios) == TRIAL_STEPS - 1 or ms > SLOWER * usual:
                    self._conclude(n, rows, now)
            elif was_known and ms > SLOWER * usual and len(self._counts) > 1:  # something has just changed
                self._next_probe = min(self._next_probe, now + PROBE_S[0] / 4)
            self._least(rows, self._costs[n].ms(rows))

    def _conclude(self, n: int, rows: int, now: float) -> None:
        """The trial is over: follows the count that was tried, if it was faster."""
        if statistics.median(self._ratios) < FASTER:
            self.current = n
        self._trial = None
        self._next_probe = now + self._pause(rows, self._trial_cost_s)

    def _pause(self, rows: int, extra_s: float) -> float:
        slow = self.costs.ms(rows) > SLOWER * self._least(rows, self.costs.ms(rows))
        if self.current == self._counts[-1] and not slow:
            return QUIET_PROBE_S
        return min(max(PROBE_COST * extra_s, PROBE_S[0]), PROBE_S[1])

    def _least(self, rows: int, ms: float) -> float:
        """The least that such a step has cost; forgotten slowly, as contexts grow and with them the cost."""
        class_ = rows.bit_length()
        least = min(self._best.get(class_, ms) * 1.0005, ms)
        self._best[class_] = least
        return least
