"""What a step costs, as measured: the scheduler's measure for chunks, lookup drafts and promises of time."""

from __future__ import annotations

import math
from bisect import bisect_left

# llama.cpp's own kernels take rows four at a time, and those that are left over one by one: three cost more than four.
# Ours have no such steps. What is measured decides; above the sizes that are remembered, whole tiles suit both.
TILE_ROWS = 4
# Prompts get so many rows of a step, however many answers are written in it.
LEAST_ROWS = 4
# Each of these sizes is remembered by itself; steps of other sizes cost what the next larger one does. The last one
# stands for all that are larger: they go by the row, and what a row costs grows with the text before it.
_ROWS: tuple[int, ...] = (*range(1, 17), 20, 24, 32, 64)
_LARGE = len(_ROWS) - 1
# How their costs relate to one another, to begin with: a 4B model in IQ4_NL on two cores with llama.cpp's own kernels.
# So whole tiles are tried, and where they are not the cheapest, that is learned.
_SHAPE: tuple[float, ...] = (
    1.0, 1.8, 2.5, 1.9, 2.7, 3.4, 4.2, 3.4, 4.2, 4.9, 5.8, 5.0, 5.8, 6.5, 7.3, 5.5,
    7.2, 8.8, 10.9, 15.0,
)  # fmt: skip
_FIRST_MS = 20.0  # one row, before anything was measured
_NEW = 0.25  # weight of a new measurement, if the last one is recent
_FORGET_S = 0.5  # an old measurement counts for little beside a new one
# What decides how many rows a step has believes no measurement that is so much older than the last one: a step that was
# slow once, beside a neighbour who has gone since, would otherwise never be tried again.
_FRESH_S = 2.0
# One slow step says little about the shape.
_SURPRISE = 1.5
# A chunk may have more rows than where a row costs least if each costs so much more at most.
_HARDLY_MORE = 1.05
# A tile is filled with rows of no use if the step is expected to cost less than this share then.
_PADDED = 0.97


class StepCosts:
    """Milliseconds of a step by its number of rows."""

    def __init__(self) -> None:
        self._ms: list[float | None] = [None] * len(_ROWS)
        self._at = [-math.inf] * len(_ROWS)
        self._shape = list(_SHAPE)
        self._latest = -math.inf
        self._last = 0  # the size that was measured last
        self._growth_ms = 0.0  # of what a row of a large step costs, for each token before it
        self._last_rows = 0  # of the last large step

    @property
    def known(self) -> bool:
        """Whether anything was measured yet."""
        return self._latest > -math.inf

    def observe(self, rows: int, ms: float, now: float) -> None:
        """Takes in a step of `rows` rows that took `ms` and ended at `now` (seconds, any clock)."""
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
        """A prompt that is read in many steps: each makes the next one dearer. A new prompt begins cheap again."""
        old = self._ms[_LARGE]
        if old is not None and now - self._at[_LARGE] < _FRESH_S and ms > old:
            growth = (ms - old) / _ROWS[_LARGE] / self._last_rows
            self._growth_ms += (growth - self._growth_ms) / 2
        self._last_rows = rows

    def _learn_shape(self, at: int, ms: float, now: float) -> None:
        """How this size compares with the other one just before it: machines and models differ in that.

        Only just before: if a size gets slower from step to step it is the machine that changes, not the shape.
        """
        last, self._last = self._last, at
        reference = self._ms[last]
        if last == at or reference is None or now - self._at[last] > _FRESH_S:
            return
        seen = self._shape[last] * ms / reference
        seen = max(self._shape[at] / _SURPRISE, min(seen, self._shape[at] * _SURPRISE))
        self._shape[at] += _NEW * (seen - self._shape[at])

    def ms(self, rows: int, *, max_age_s: float = math.inf) -> float:
        """The expected cost of a step over `rows` rows, from measurements at most so much older than the last one."""
        at, oldest = _size(rows), self._latest - max_age_s
        ms = self._size_ms(at, oldest)
        if at < _LARGE:
            return ms
        row_ms = ms / _ROWS[at] + (self._growth_ms * self._last_rows if self._at[at] >= oldest else 0.0)
        if self._at[at - 1] > self._at[at]:  # a new prompt, of which only a little was read so far
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
        """As `ms`, for who is about to choose a number of rows: what was slow long ago is tried again."""
        return self.ms(rows, max_age_s=_FRESH_S)

    def rows_within(self, ms: float, limit: int) -> int:
        """The most rows that `ms` allow, `limit` at most, at which one costs hardly more than at any smaller number."""
        large = _ROWS[_LARGE]
        rows = min(limit, int(ms * large / self.recent_ms(large)))
        if rows > _ROWS[_LARGE - 1]:
            return rows // TILE_ROWS * TILE_ROWS
        costs = {n: cost for n in _ROWS[:_LARGE] if LEAST_ROWS <= n <= limit and (cost := self.recent_ms(n)) <= ms}
        least = min((cost / n for n, cost in costs.items()), default=0.0)
        return max((n for n, cost in costs.items() if cost / n <= _HARDLY_MORE * least), default=LEAST_ROWS)

    def padded(self, rows: int) -> int:
        """How many rows a step over `rows` rows should have: with its last tile filled, if it costs less then.

        A size that was not measured lately is taken as it is, and so is measured.
        """
        full = -(-rows // TILE_ROWS) * TILE_ROWS
        at = _size(rows)
        if at == _LARGE or self._ms[at] is None or self._at[at] < self._latest - _FRESH_S:
            return rows
        return full if self.recent_ms(full) < _PADDED * self.recent_ms(rows) else rows


def _size(rows: int) -> int:
    """The place of a step's size."""
    return bisect_left(_ROWS, rows, hi=_LARGE)
