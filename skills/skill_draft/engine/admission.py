"""Admission: which waiting sequences may start.

A sequence starts once it has a slot and enough cells, no running prefill is worth waiting for, and its deadline can
still be met.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .cells import CellLog
from .forecast import Forecast
from .keeping import Keeping
from .scheduler import Scheduler
from .sequence import Sequence
from .tokens import Ints, common_length

# A prompt waits for a running prefill if that would save it at least this many more tokens.
WORTH_WAITING_TOKENS = 16


class Admission:
    """Starts waiting sequences."""

    def __init__(
        self, scheduler: Scheduler, cells: CellLog, forecast: Forecast, keeping: Keeping, *, n_batch: int
    ) -> None:
        self._scheduler, self._cells, self._forecast, self._n_batch = scheduler, cells, forecast, n_batch
        self._keeping = keeping

    def admit(self, now: float) -> Iterator[tuple[Sequence, str]]:
        """Start waiting sequences in queue order, as far as there is room.

        Yields:
            Each sequence that was given a slot, with an empty string; or one that must fail, with the reason.
        """
        for sequence in self._scheduler.ready():
            tokens = np.asarray(sequence.tokens, np.int32)
            shared, in_cells = self._cells.longest_match(tokens[:-1], sequence.request.tenant)
            stored = sequence.stored.length if sequence.stored else 0
            if self._is_about_to_be_shared(sequence, tokens, max(shared, stored)):
                continue
            if sequence.stored and stored >= shared + WORTH_WAITING_TOKENS:
                if not self._keeping.ready(sequence.stored):
                    continue
                shared = max(shared, sequence.stored.length)
            if reason := self._forecast.too_late(sequence, len(tokens) - shared, now):
                yield sequence, reason
                continue
            if self._scheduler.running and not self._fits(len(tokens) - in_cells):
                return
            slot = self._cells.open(tokens, sequence.owner)
            if slot is None:
                return
            self._keeping.noticed(sequence, slot.forked_at)
            self._keeping.restore(self._cells, slot, sequence)
            sequence.slot = slot
            self._scheduler.start(sequence)
            yield sequence, ""

    def _is_about_to_be_shared(self, sequence: Sequence, tokens: Ints, shared: int) -> bool:
        """Return whether a running sequence is computing a longer shared prefix; if so, make it this one's leader."""
        for other in self._scheduler.running:
            if other.slot is None or other.pending <= 1 or other.owner.tenant != sequence.owner.tenant:
                continue
            length = common_length(np.asarray(other.tokens, np.int32), tokens[:-1])
            if length >= shared + WORTH_WAITING_TOKENS and length > other.slot.length:
                sequence.leader = (other, length)
                return True
        return False

    def _fits(self, new_cells: int) -> bool:
        """Return whether this sequence fits the cache next to the running ones, with room left for some steps."""
        pending = sum(s.pending for s in self._scheduler.running)
        return self._cells.live() + pending + new_cells + self._n_batch // 8 <= self._cells.n_cells
