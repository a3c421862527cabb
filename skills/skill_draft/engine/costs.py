"""What a step costs, as measured: the scheduler's measure for chunks, lookup drafts and promises of time."""

from __future__ import annotations

import math
from bisect import bisect_left

# Cost of a step over n rows, relative to one row (a 4B model in IQ4_NL on two cores): the shape to begin with.
_ROWS = (1, 2, 3, 4, 8, 12, 16, 24, 32, 48, 64, 128, 256, 512)
_SHAPE = (1.0, 1.9, 2.6, 2.1, 3.7, 4.8, 4.9, 7.1, 8.5, 12.6, 15.0, 30.0, 60.0, 120.0)
_NEW = 0.25  # weight of a new measurement, if the last one is recent
_FORGET_S = 0.5  # an old measurement counts for little beside a new one
# What decides how many rows a step has believes no measurement that is so much older than the last one: a step that was
# slow once, beside a neighbour who has gone since, would otherwise never be tried again.
_BELIEVED_S = 2.0


class StepCosts:
    """Milliseconds of a step by its number of rows. The kernels work in tiles of 4, so 5 to 8 rows are one class."""

    def __init__(self) -> None:
        self._ms: list[float | None] = [None] * len(_ROWS)
        self._at = [0.0] * len(_ROWS)
        self._latest = -math.inf

    @property
    def known(self) -> bool:
        """Whether anything was measured yet."""
        return self._latest > -math.inf

    def observe(self, rows: int, ms: float, now: float) -> None:
        """Takes in a step of `rows` rows that took `ms` and ended at `now` (seconds, any clock)."""
        at = _class(rows)
        scaled = ms / _part(rows, at)
        old = self._ms[at]
        if old is None:
            self._ms[at] = scaled
        else:
            weight = max(_NEW, 1 - math.exp((self._at[at] - now) / _FORGET_S))
            self._ms[at] = old + weight * (scaled - old)
        self._at[at] = self._latest = now

    def ms(self, rows: int, *, believed_s: float = math.inf) -> float:
        """The expected cost of a step over `rows` rows, from measurements at most so much older than the last one."""
        at = _class(rows)
        size = _part(rows, at)
        oldest = self._latest - believed_s
        if (ms := self._ms[at]) is not None and self._at[at] >= oldest:
            return ms * size
        known = [i for i, ms in enumerate(self._ms) if ms is not None and self._at[i] >= oldest]
        if not known:
            return 20.0 * _SHAPE[at] * size
        nearest = min(known, key=lambda i: abs(i - at))
        return (self._ms[nearest] or 0.0) * _SHAPE[at] / _SHAPE[nearest] * size

    def lately_ms(self, rows: int) -> float:
        """As `ms`, for who is about to choose a number of rows: what was slow long ago is tried again."""
        return self.ms(rows, believed_s=_BELIEVED_S)

    def rows_within(self, ms: float, limit: int) -> int:
        """The most rows, in whole tiles, that a step can have in `ms`; at least one tile, at most `limit`."""
        sizes = [4, *(rows for rows in _ROWS[4:] if rows < limit), limit]
        if self.lately_ms(limit) <= ms:
            return limit
        upper = next((i for i, rows in enumerate(sizes) if self.lately_ms(rows) > ms), 0)
        if upper == 0:
            return 4
        low, high = sizes[upper - 1], sizes[upper]
        share = (ms - self.lately_ms(low)) / max(1e-9, self.lately_ms(high) - self.lately_ms(low))
        return max(4, int(low + share * (high - low)) // 4 * 4)


def _class(rows: int) -> int:
    return min(bisect_left(_ROWS, rows), len(_ROWS) - 1)


def _part(rows: int, at: int) -> float:
    """What part of a full step of its class a step over `rows` rows is; up to 16 rows, tiles make them all equal."""
    return rows / _ROWS[at] if rows > 16 else 1.0
