"""Run a step: write the rows of its shares into llama.cpp's batch, decode, and record what the cells hold."""

from __future__ import annotations

import time
from collections.abc import Iterator

from .binding import Context
from .cells import CellLog
from .embedding import Embedder
from .scheduler import Share
from .sequence import Sequence
from .slots import Slot
from .threads import Threads
from .tokens import Embedded, Floats

# A step that took longer than this many times its CPU time was suspended meanwhile (`docker pause`, swapping). The
# excess is no step cost: counted as one, it would make requests with short deadlines look too late and be refused.
STOPPED = 20.0


class Stepper:
    """Runs the steps of one context."""

    def __init__(self, context: Context, cells: CellLog, threads: Threads, embedder: Embedder | None) -> None:
        """`embedder` is for steps with images; None if none are read."""
        self._context, self._cells, self._threads, self._embedder = context, cells, threads, embedder
        self._threads_set = threads.current

    def run(self, shares: list[Share], n_threads: int) -> Floats:
        """Compute a step and return the logits of its complete shares, in order."""
        rows = self._fill(shares)
        logits = self._decode(rows, self._embedded(shares, rows), n_threads)
        context = self._context
        for share, row in _placed(shares):
            end = row + share.rows
            self._cells.filled(slot_of(share.sequence), context.tokens[row:end], context.positions[row:end])
        return logits

    def _fill(self, shares: list[Share]) -> int:
        """Write the rows of a step into the batch and return their number."""
        context, end = self._context, 0
        for share, row in _placed(shares):
            slot, end = slot_of(share.sequence), row + share.rows
            start = slot.length
            context.tokens[row:end] = share.sequence.tokens[start : start + share.n] + share.speculative
            context.positions[row:end] = share.sequence.positions(start, share.rows)
            context.seq_ids[row:end] = slot.id
            context.wants_logits[row:end] = 0
            if share.complete:
                context.wants_logits[row + share.n - 1 : end] = 1
        return end

    def _embedded(self, shares: list[Share], n_rows: int) -> Embedded | None:
        """Return the input of a step with images; None if there are none in it."""
        tokens = self._context.tokens[:n_rows]
        if self._embedder is None or not (tokens < 0).any():
            return None
        step = self._embedder.begin(n_rows)
        for share, row in _placed(shares):
            start = slot_of(share.sequence).length
            self._embedder.fill(step, row, share.sequence, start, tokens[row : row + share.rows])
        return step

    def _decode(self, rows: int, embedded: Embedded | None, n: int) -> Floats:
        begin, begin_cpu = time.monotonic(), time.process_time()
        if n != self._threads_set:
            self._context.set_threads(n)
            self._threads_set = n
        logits = self._context.decode_embedded(embedded) if embedded else self._context.decode(rows)
        end = time.monotonic()
        took = min(end - begin, STOPPED * (time.process_time() - begin_cpu))
        self._threads.observe(n, rows, took * 1000, end)
        return logits


def slot_of(sequence: Sequence) -> Slot:
    """Return the slot of a running sequence."""
    assert sequence.slot is not None, "a running sequence has a slot"
    return sequence.slot


def _placed(shares: list[Share]) -> Iterator[tuple[Share, int]]:
    """Yield each share with its first row."""
    row = 0
    for share in shares:
        yield share, row
        row += share.rows
