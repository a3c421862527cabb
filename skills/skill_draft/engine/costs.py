"""Measured step costs, from which prefill chunks, speculation and time estimates are sized."""

from __future__ import annotations

import math
from bisect import bisect_left

# llama.cpp's own kernels process rows in tiles of four and the remainder one by one, so three rows cost more than four.
# Our kernels have no such steps. Measurements decide; above the tracked sizes, whole tiles suit both.
TILE_ROWS = 4
# Prompts get at least this many rows of a step, however many sequences decode in it.
LEAST_ROWS = 4
# Each of these sizes is tracked separately; other sizes cost what the next larger one does. The last one stands for all
# larger ones: their cost is per row, and a row's cost grows with the length of the context before it.
_ROWS: tuple[int, ...] = (*range(1, 17), 20, 24, 32, 64)
_LARGE = len(_ROWS) - 1
# Initial ratios between their costs: a 4B model in IQ4_NL on two cores with llama.cpp's own kernels. Whole tiles are
# therefore tried first; where they are not the cheapest, measurements correct the ratios.
_SHAPE: tuple[float, ...] = (
    1.0, 1.8, 2.5, 1.9, 2.7, 3.4, 4.2, 3.4, 4.2, 4.9, 5.8, 5.0, 5.8, 6.5, 7.3, 5.5,
    7.2, 8.8, 10.9, 15.0,
)  # fmt: skip
_FIRST_MS = 20.0  # one row, before the first measurement
_NEW = 0.25  # weight of a new measurement if the previous one is recent
_FORGET_S = 0.5  # time constant with which an old measurement loses weight against a new one
# When choosing a step size, ignore measurements this much older than the newest: a size that was slow once, because of
# a neighbour that has gone since, would otherwise never be retried.
_FRESH_S = 2.0
# Bounds how much one measurement may change a ratio, as a factor.
_SURPRISE = 1.5
# A chunk may be larger than the size with the cheapest rows if its rows cost at most this factor more.
_HARDLY_MORE = 1.05
# A tile is padded if the step is then expected to cost less than this share.
_PADDED = 0.97


class StepCosts:
    """Milliseconds of a step by its number of rows."""

    def __init__(self) -> None:
        self._ms: list[float | None] = [None] * len(_ROWS)
        self._at = [-math.inf] * len(_ROWS)
        self._shape = list(_SHAPE)
        self._latest = -math.inf
        self._last = 0  # index of the size measured last
        self._growth_ms = 0.0  # what each token of context adds to the cost of a row in a large step
        self._last_rows = 0  # of the last large step

    @property
    def known(self) -> bool:
        """Whether anything has been measured."""
        return self._latest > -math.inf

    def observe(self, rows: int, ms: float, now: float) -> None:
        """Record that a step of `rows` rows took `ms` and ended at `now` (seconds, any clock)."""
        at = _size(rows)
        if at == _LARGE:
            ms *= _ROWS[_LARGE] / rows
            self._observe_growth(ms, rows, now)
            self._ms[at] = ms
        elif (old := self._ms[at]) is None:
            self._ms[at] = ms
        else:
            weight = max(_NEW, 1 - math.exp((self._at[at] - now) / _FORGET_S))
            self._ms[at] = old + weight * (ms - old)
        self._learn_shape(at, ms, now)
        self._at[at] = self._latest = now

    def _observe_growth(self, ms: float, rows: int, now: float) -> None:
        """Learn how much each step of a long prompt costs more than the one before. A new prompt starts cheap again."""
        old = self._ms[_LARGE]
        if old is not None and now - self._at[_LARGE] < _FRESH_S and ms > old:
            growth = (ms - old) / _ROWS[_LARGE] / self._last_rows
            self._growth_ms += (growth - self._growth_ms) / 2
        self._last_rows = rows

    def _learn_shape(self, at: int, ms: float, now: float) -> None:
        """Learn this size's cost relative to the size measured just before; machines and models differ in that.

        Older measurements are not compared: when one size slows down over time, the machine has changed, not the shape.
        """
        last, self._last = self._last, at
        reference = self._ms[last]
        if last == at or reference is None or now - self._at[last] > _FRESH_S:
            return
        seen = self._shape[last] * ms / reference
        seen = max(self._shape[at] / _SURPRISE, min(seen, self._shape[at] * _SURPRISE))
        self._shape[at] += _NEW * (seen - self._shape[at])

    def ms(self, rows: int, *, max_age_s: float = math.inf) -> float:
        """Return the expected cost of a step of `rows` rows, from measurements within `max_age_s` of the newest."""
        at, oldest = _size(rows), self._latest - max_age_s
        ms = self._size_ms(at, oldest)
        if at < _LARGE:
            return ms
        row_ms = ms / _ROWS[at] + (self._growth_ms * self._last_rows if self._at[at] >= oldest else 0.0)
        if self._at[at - 1] > self._at[at]:  # a new prompt, of which little has been read
            row_ms = min(row_ms, self._size_ms(at - 1, oldest) / _ROWS[at - 1])
        return row_ms * rows

    def _size_ms(self, at: int, oldest: float) -> float:
        if (ms := self._ms[at]) is not None and self._at[at] >= oldest:
            return ms
        known = [i for i, ms in enumerate(self._ms) if ms is not None and self._at[i] >= oldest]
        if not known:
            return _FIRST_MS * self._shape[at] / self._shape[0]
        nearest = min(known, key=lambda i: abs(i - at))
        return (self._ms[nearest] or 0.0) * self._shape[at] / self._shape[nearest]

    def recent_ms(self, rows: int) -> float:
        """Return the same from recent measurements only, for choosing a step size: what was slow once is retried."""
        return self.ms(rows, max_age_s=_FRESH_S)

    def least_row_ms(self, most_rows: int, within_ms: float) -> float:
        """Return the cost of a row in the step where it is least, among those of few rows that fit in `within_ms`."""
        costs = ((n, self.ms(n)) for n in _ROWS[:_LARGE] if n <= most_rows)
        return min((ms / n for n, ms in costs if ms <= within_ms), default=self.ms(1))

    def rows_within(self, ms: float, limit: int) -> int:
        """Return the largest step of at most `limit` rows that fits in `ms` and costs hardly more a row than others."""
        large = _ROWS[_LARGE]
        rows = min(limit, int(ms * large / self.recent_ms(large)))
        if rows > _ROWS[_LARGE - 1]:
            return rows // TILE_ROWS * TILE_ROWS
        costs = {n: cost for n in _ROWS[:_LARGE] if LEAST_ROWS <= n <= limit and (cost := self.recent_ms(n)) <= ms}
        least = min((cost / n for n, cost in costs.items()), default=0.0)
        return max((n for n, cost in costs.items() if cost / n <= _HARDLY_MORE * least), default=LEAST_ROWS)

    def padded(self, rows: int) -> int:
        """Return `rows`, rounded up to a whole tile if the step costs less that way.

        A size without a recent measurement is returned as it is, so that it gets measured.
        """
        full = -(-rows // TILE_ROWS) * TILE_ROWS
        at = _size(rows)
        if at == _LARGE or self._ms[at] is None or self._at[at] < self._latest - _FRESH_S:
            return rows
        return full if self.recent_ms(full) < _PADDED * self.recent_ms(rows) else rows


def _size(rows: int) -> int:
    """Return the index of a step's size in `_ROWS`."""
    return bisect_left(_ROWS, rows, hi=_LARGE)
