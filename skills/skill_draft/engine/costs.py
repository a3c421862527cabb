"""What a step costs, as measured: the scheduler's measure for chunks, lookup drafts and promises of time."""

from __future__ import annotations

import math
from bisect import bisect_left

# Up to so many rows a step's cost goes by tiles of 4, and each size is remembered by itself. Above, it goes by the row,
# and what a row costs grows with the text before it.
_TILED = 16
_ROWS = (1, 2, 3, 4, 8, 12, 16)
# The shape to begin with, relative to one row: a 4B model in IQ4_NL on two cores.
_SHAPE = (1.0, 1.9, 2.6, 2.1, 3.7, 4.8, 4.9)
_SHAPE_PER_ROW = _SHAPE[-1] / _TILED
_NEW = 0.25  # weight of a new measurement, if the last one is recent
_FORGET_S = 0.5  # an old measurement counts for little beside a new one
# What decides how many rows a step has believes no measurement that is so much older than the last one: a step that was
# slow once, beside a neighbour who has gone since, would otherwise never be tried again.
_BELIEVED_S = 2.0


class StepCosts:
    """Milliseconds of a step by its number of rows."""

    def __init__(self) -> None:
        self._ms: list[float | None] = [None] * len(_ROWS)
        self._at = [-math.inf] * len(_ROWS)
        self._latest = -math.inf
        self._row_ms: float | None = None
        self._growth_ms = 0.0  # of what a row costs, for each token before it
        self._row_at = -math.inf
        self._last_rows = 0

    @property
    def known(self) -> bool:
        """Whether anything was measured yet."""
        return self._latest > -math.inf

    def observe(self, rows: int, ms: float, now: float) -> None:
        """Takes in a step of `rows` rows that took `ms` and ended at `now` (seconds, any clock)."""
        self._latest = now
        if rows > _TILED:
            row_ms = ms / rows
            # A prompt that is read in many steps: each makes the next one dearer. A new prompt begins cheap again.
            if self._row_ms is not None and now - self._row_at < _BELIEVED_S and row_ms > self._row_ms:
                growth = (row_ms - self._row_ms) / self._last_rows
                self._growth_ms += (growth - self._growth_ms) / 2
            self._row_ms, self._row_at, self._last_rows = row_ms, now, rows
            return
        at = bisect_left(_ROWS, rows)
        if (old := self._ms[at]) is None:
            self._ms[at] = ms
        else:
            weight = max(_NEW, 1 - math.exp((self._at[at] - now) / _FORGET_S))
            self._ms[at] = old + weight * (ms - old)
        self._at[at] = now

    def ms(self, rows: int, *, believed_s: float = math.inf) -> float:
        """The expected cost of a step over `rows` rows, from measurements at most so much older than the last one."""
        oldest = self._latest - believed_s
        if rows > _TILED:
            if self._row_ms is not None and self._row_at >= oldest:
                return (self._row_ms + self._growth_ms * self._last_rows) * rows
            return self._tiled_ms(len(_ROWS) - 1, oldest) * rows * _SHAPE_PER_ROW / _SHAPE[-1]
        return self._tiled_ms(bisect_left(_ROWS, rows), oldest)

    def _tiled_ms(self, at: int, oldest: float) -> float:
        if (ms := self._ms[at]) is not None and self._at[at] >= oldest:
            return ms
        known = [i for i, ms in enumerate(self._ms) if ms is not None and self._at[i] >= oldest]
        if known:
            nearest = min(known, key=lambda i: abs(i - at))
            return (self._ms[nearest] or 0.0) * _SHAPE[at] / _SHAPE[nearest]
        one_row = self._row_ms / _SHAPE_PER_ROW if self._row_ms is not None else 20.0
        return one_row * _SHAPE[at]

    def lately_ms(self, rows: int) -> float:
        """As `ms`, for who is about to choose a number of rows: what was slow long ago is tried again."""
        return self.ms(rows, believed_s=_BELIEVED_S)

    def rows_within(self, ms: float, limit: int) -> int:
        """The most rows, in whole tiles, that a step can have in `ms`; at least one tile, at most `limit`."""
        rows = int(ms * (_TILED + 1) / self.lately_ms(_TILED + 1))
        if rows <= _TILED:
            rows = max((size for size in _ROWS[3:] if self.lately_ms(size) <= ms), default=4)
        return max(4, min(rows, limit) // 4 * 4)
