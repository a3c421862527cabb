"""Who runs in the next step.

Decodes go first, then prompts, the shortest before the others, and lookup drafts take what pays. Knows no llama.cpp.
"""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby

from .costs import LEAST_ROWS, TILE_ROWS
from .sequence import Sequence
from .threads import Threads

# A prompt that nobody has to wait for, and the guesses of who runs alone, may take steps as long as this; a cancelled
# call is gone within one.
QUIET_STEP_MS = 1000.0
# Prompts that are read together are at most so many times as long as the shortest one.
ALIKE = 2
# The oldest prompt has this share of the rows, however many shorter ones come after it.
OLDEST = 1 / 4
# Reading beside answers takes short steps. Where a row costs less than this share of what it costs in them if steps may
# be long, prompts had better be read together first, and answered together.
_DEAR = 0.85
# Guesses that promise less than this are not worth the risk.
_WORTH = 1.05
# Sizes of steps that guesses fill up to, counted from the last whole tile of rows that is there already.
_BLOCKS = (4, 8, 12, 16, 24, 32)


@dataclass(slots=True)
class Share:
    """A sequence's part of a step: `n` of its pending tokens, then guesses."""

    sequence: Sequence
    n: int
    complete: bool
    """Whether the step computes all that is pending, so that the next token can be chosen."""
    speculative: list[int] = field(default_factory=list)
    num_forced: int = 0
    """How many of the guesses, at their beginning, a grammar forces."""
    num_padding: int = 0
    """How many of the guesses, at their end, only fill a tile."""

    @classmethod
    def of(cls, sequence: Sequence, n: int) -> Share:
        """At most `n` of the pending tokens."""
        n = min(n, sequence.pending)
        return cls(sequence, n, n == sequence.pending)

    @property
    def rows(self) -> int:
        """Rows of the batch."""
        return self.n + len(self.speculative)


class Scheduler:
    """The queue and the running sequences."""

    def __init__(
        self, threads: Threads, *, n_batch: int, max_itl_ms: float, max_running: int, max_outputs: int | None = None
    ) -> None:
        """Bounds of a step.

        Args:
            threads: says what steps cost.
            n_batch: rows of a step.
            max_itl_ms: how long others may hold up a stream between two of its tokens.
            max_running: sequences that run at once.
            max_outputs: rows of logits of a step, as memory was measured for; as many as rows by default.
        """
        self._threads, self._n_batch, self._max_itl_ms, self.max_running = threads, n_batch, max_itl_ms, max_running
        self._max_outputs = n_batch if max_outputs is None else max_outputs
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []

    def add(self, sequence: Sequence) -> None:
        """Queues a sequence, new or preempted, by its key."""
        insort(self.waiting, sequence, key=lambda s: s.queue_key)

    def start(self, sequence: Sequence) -> None:
        """Moves a sequence from the queue to the running ones."""
        self.waiting.remove(sequence)
        insort(self.running, sequence, key=lambda s: s.queue_key)

    def remove(self, sequence: Sequence) -> None:
        """Forgets a sequence, wherever it is."""
        for home in (self.waiting, self.running):
            if sequence in home:
                home.remove(sequence)

    def preempt_youngest(self) -> Sequence | None:
        """Puts the running sequence with the latest key back into the queue, unless it is the only one."""
        if len(self.running) < 2:
            return None
        youngest = self.running.pop()
        self.add(youngest)
        return youngest

    def ready(self) -> Iterator[Sequence]:
        """Waiting sequences that could start now, in order, as long as there is a place."""
        for sequence in list(self.waiting):
            if len(self.running) >= self.max_running:
                return
            if sequence not in self.waiting:  # its call was failed a moment ago, with all its candidates
                continue
            if sequence.leader is not None:
                leader, length = sequence.leader
                if leader in self.running and (leader.slot is None or leader.slot.length < length):
                    continue
                sequence.leader = None
            yield sequence

    def plan(self, *, trial: bool = False) -> list[Share]:
        """The shares of the next step; empty if nobody runs. In a trial of the threads, rows may cost twice as much."""
        slower = 2 if trial else 1
        shares = [Share.of(s, 1) for s in self.running if s.decodes]
        if prompts := [s for s in self.running if not s.decodes]:
            left, together = self._reading(min(s.pending for s in prompts), len(shares), slower)
            for _, equals in groupby(prompts, key=lambda s: s.request.priority):
                if left > 0:
                    read = _divide(list(equals), left, together=together)
                    left -= sum(share.n for share in read)
                    shares += read
        limit_ms = self._max_itl_ms if len(self.running) > 1 else max(self._max_itl_ms, QUIET_STEP_MS)
        self._add_speculative(shares, limit_ms / slower)
        self._pad_tile(shares)
        return shares

    def _reading(self, shortest: int, decodes: int, slower: int) -> tuple[int, bool]:
        """How many rows of prompts the step has, and whether prompts of like length had better end together."""
        costs, n = self._threads.costs, self._n_batch
        short, long = (costs.rows_within(ms / slower, n) for ms in (self._max_itl_ms, QUIET_STEP_MS))
        together = costs.recent_ms(long) / long < _DEAR * costs.recent_ms(short) / short
        if decodes:
            # The oldest prompt always moves on, however many decode.
            return max(LEAST_ROWS, short - decodes), together
        # Nobody is held up by a long step, but for the one whose prompt is complete in it.
        return long if together else min(long, max(short, shortest)), together

    def _add_speculative(self, shares: list[Share], limit_ms: float) -> None:
        """Gives guesses to the shares where tokens a second are expected to grow by it, most promising first."""
        rows = sum(share.rows for share in shares)
        open_ = [(s.sequence.speculator, s) for s in shares if s.complete and s.sequence.speculator]
        costs = self._threads.costs
        if not open_ or not costs.known:
            return
        tokens = float(sum(s.complete for s in shares))
        open_.sort(key=lambda pair: -pair[0].expected(TILE_ROWS - 1))
        for speculator, share in open_:
            most = min(self._speculative_room(share), self._n_batch - rows, self._max_outputs - _outputs(shares))
            best, best_rate = 0, _WORTH * tokens / costs.recent_ms(costs.padded(rows))
            for length in _lengths(rows):
                if length > most or costs.recent_ms(rows + length) > limit_ms:
                    continue
                rate = (tokens + speculator.expected(length)) / costs.recent_ms(rows + length)
                if rate > best_rate:
                    best, best_rate = length, rate
            if best and (proposed := speculator.propose(best)):
                share.speculative, share.num_forced = proposed, min(speculator.num_forced, len(proposed))
                rows += len(proposed)
                tokens += speculator.expected(best)

    def _pad_tile(self, shares: list[Share]) -> None:
        """Adds guesses that are wrong most likely where a step is cheaper with more rows: three cost more than four."""
        rows = sum(share.rows for share in shares)
        most = min(self._n_batch, rows + self._max_outputs - _outputs(shares))
        missing = min(self._threads.costs.padded(rows), most) - rows
        for share in shares:
            if missing <= 0:
                return
            if share.complete and (n := min(missing, self._speculative_room(share) - len(share.speculative))) > 0:
                share.speculative = share.speculative + n * share.sequence.tokens[-1:]
                share.num_padding = n
                missing -= n

    def _speculative_room(self, share: Share) -> int:
        """No guesses beyond the end of the answer: the last token needs no cell."""
        return share.sequence.room - 1


def _outputs(shares: list[Share]) -> int:
    """Rows of logits that these shares ask for: one for the next token, and one behind each guess."""
    return sum(1 + len(share.speculative) for share in shares if share.complete)


def _divide(prompts: list[Sequence], rows: int, *, together: bool) -> list[Share]:
    """Divides `rows` among prompts, the oldest of which comes first. Who has the least left to read is served first.

    So first tokens come as early as they can on average, and a short prompt does not wait for a long one. The oldest
    moves on whatever comes.

    Args:
        prompts: in the order of their age.
        rows: how many there are.
        together: whether prompts of like length are read in proportion to what is left of them: they end in one step,
            and decode together from then on. Else one after the other is read, each beside the answers before it.
    """
    order = sorted(prompts, key=lambda s: s.pending)
    alike = [s for s in order if s.pending <= ALIKE * order[0].pending] if together else order[:1]
    given, oldest = dict.fromkeys(order, 0), prompts[0]
    given[oldest] = 1 if oldest in alike else min(oldest.pending, math.ceil(OLDEST * rows))
    left, total = rows - given[oldest], sum(s.pending for s in alike)
    for sequence in alike:
        left += given[sequence]
        given[sequence] = min(left, sequence.pending, max(1, left * sequence.pending // total))
        left, total = left - given[sequence], total - sequence.pending
    for sequence in order:
        more = min(left, sequence.pending - given[sequence])
        given[sequence] += more
        left -= more
    return [Share.of(sequence, n) for sequence, n in given.items() if n]


def _lengths(rows: int) -> list[int]:
    """Numbers of guesses to think of, given the rows that are there already: 1, 2, 3, 7, 11 and so on beside one row.

    Whole tiles, as these are cheapest with llama.cpp's own kernels; and few guesses, as ours have no steps.
    """
    used = rows % TILE_ROWS
    whole = [n for size in _BLOCKS if (n := size - used) > 0]
    return [*range(1, whole[0]), *whole]
