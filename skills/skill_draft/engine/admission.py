"""Who may leave the queue: there is a place, there is room, no prefix is worth waiting for, and it is not too late."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .cells import CellLog
from .forecast import Forecast
from .scheduler import Scheduler
from .sequence import Sequence
from .tokens import Ints, common_length

# A prompt waits for one that is being prefilled if it can take over at least this many tokens more from it.
WORTH_WAITING_TOKENS = 16


class Admission:
    """Starts waiting sequences."""

    def __init__(self, scheduler: Scheduler, cells: CellLog, forecast: Forecast, *, n_batch: int) -> None:
        self._scheduler, self._cells, self._forecast, self._n_batch = scheduler, cells, forecast, n_batch

    def admit(self, now: float) -> Iterator[tuple[Sequence, str]]:
        """Starts what can be started, in order.

        Yields each sequence that has a slot now, with an empty text; or one that must be failed, with the reason.
        """
        for sequence in self._scheduler.ready():
            tokens = np.asarray(sequence.tokens, np.int32)
            shared, in_cells = self._cells.longest_match(tokens[:-1])
            if self._is_about_to_be_shared(sequence, tokens, shared):
                continue
            if reason := self._forecast.too_late(sequence, len(tokens) - shared, now):
                yield sequence, reason
                continue
            if self._scheduler.running and not self._fits(len(tokens) - in_cells):
                return
            slot = self._cells.open(tokens)
            if slot is None:
                return
            sequence.slot = slot
            self._scheduler.start(sequence)
            yield sequence, ""

    def _is_about_to_be_shared(self, sequence: Sequence, tokens: Ints, shared: int) -> bool:
        """Whether a running sequence is computing a longer prefix than there is; then this one waits for it."""
        for other in self._scheduler.running:
            if other.slot is None or other.pending <= 1:
                continue
            length = common_length(np.asarray(other.tokens, np.int32), tokens[:-1])
            if length >= shared + WORTH_WAITING_TOKENS and length > other.slot.length:
                sequence.leader = (other, length)
                return True
        return False

    def _fits(self, new_cells: int) -> bool:
        """Whether the cells of all running sequences and this one fit the cache, with room for some steps."""
        pending = sum(s.pending for s in self._scheduler.running)
        return self._cells.live() + pending + new_cells + self._n_batch // 8 <= self._cells.n_cells
