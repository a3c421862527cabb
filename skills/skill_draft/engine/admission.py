"""Who may leave the queue: there is a place, there is room, no prefix is worth waiting for, and it is not too late."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .cells import CellLog
from .scheduler import Scheduler
from .sequence import Sequence
from .threads import Threads
from .tokens import Ints, common_length

# A prompt waits for one that is being prefilled if it can take over at least this many tokens more from it.
WORTH_WAITING_TOKENS = 16


class Admission:
    """Starts waiting sequences."""

    def __init__(self, scheduler: Scheduler, cells: CellLog, threads: Threads, *, n_batch: int) -> None:
        self._scheduler, self._cells, self._threads, self._n_batch = scheduler, cells, threads, n_batch

    def admit(self, now: float) -> Iterator[tuple[Sequence, str]]:
        """Starts what can be started, in order.

        Yields each sequence that has a slot now, with an empty text; or one that must be failed, with the reason.
        """
        for sequence in self._scheduler.ready():
            tokens = np.asarray(sequence.tokens, np.int32)
            shared, in_cells = self._cells.longest_match(tokens[:-1])
            if self._is_about_to_be_shared(sequence, tokens, shared):
                continue
            to_read = len(tokens) - shared
            if reason := self._hopeless(sequence, to_read, now):
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

    def _hopeless(self, sequence: Sequence, to_read: int, now: float) -> str:
        """Why a request cannot have its first token before its deadline; refused before it costs anything."""
        deadline = sequence.request.deadline
        if deadline is None or sequence.n_answered or not self._threads.costs.known:
            return ""
        steps = max(1.0, to_read / self._n_batch)
        needed_s = self._threads.costs.ms(min(to_read, self._n_batch)) * steps / 1000
        # The estimate may be off by half; only what is out of reach is refused.
        if now + needed_s / 2 <= deadline:
            return ""
        return f"the deadline is in {deadline - now:.1f} s, and reading the prompt takes about {needed_s:.1f} s"

    def _fits(self, new_cells: int) -> bool:
        """Whether the cells of all running sequences and this one fit the cache, with room for some steps."""
        pending = sum(s.pending for s in self._scheduler.running)
        return self._cells.live() + pending + new_cells + self._n_batch // 8 <= self._cells.n_cells
