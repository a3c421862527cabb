"""Who runs in the next step.

Decodes go first, then prompts side by side, and lookup drafts take what pays. Knows no llama.cpp.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby

from .costs import TILE_ROWS
from .sequence import Sequence
from .threads import Threads

# A prompt that nobody has to wait for, and the guesses of who runs alone, may take steps as long as this; a cancelled
# call is gone within one.
QUIET_STEP_MS = 1000.0
# A prompt that is longer than the shortest one gets more rows of a step, but no more than so many times its rows.
LONGER = 2
# Guesses that promise less than this are not worth the risk.
_WORTH = 1.05
# Rows that guesses fill, together with those of the last tile that are there already.
_BLOCKS = (4, 8, 12, 16, 24, 32)


@dataclass(slots=True)
class Share:
    """A sequence's part of a step: `n` of its pending tokens, then guesses."""

    sequence: Sequence
    n: int
    complete: bool
    """Whether the step computes all that is pending, so that the next token can be chosen."""
    guesses: list[int] = field(default_factory=list)
    certain: int = 0
    """How many of the guesses, at their beginning, a grammar forces."""
    filling: int = 0
    """How many of the guesses, at their end, only fill a tile."""

    @classmethod
    def of(cls, sequence: Sequence, n: int) -> Share:
        """At most `n` of the pending tokens."""
        n = min(n, sequence.pending)
        return cls(sequence, n, n == sequence.pending)

    @property
    def rows(self) -> int:
        """Rows of the batch."""
        return self.n + len(self.guesses)


class Scheduler:
    """The queue and the running sequences."""

    def __init__(
        self, threads: Threads, *, n_batch: int, gap_ms: float, max_running: int, max_outputs: int | None = None
    ) -> None:
        """Bounds of a step.

        Args:
            threads: says what steps cost.
            n_batch: rows of a step.
            gap_ms: how long others may hold up a stream between two of its tokens.
            max_running: sequences that run at once.
            max_outputs: rows of logits of a step, as memory was measured for; as many as rows by default.
        """
        self._threads, self._n_batch, self._gap_ms, self.max_running = threads, n_batch, gap_ms, max_running
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
            limit_ms = self._gap_ms if shares else QUIET_STEP_MS
            rows = self._threads.costs.rows_within(limit_ms / slower, self._n_batch)
            # The oldest prompt always moves on, however many decode: prompts have a tile of rows at least.
            left = max(TILE_ROWS, rows - len(shares))
            for _, equals in groupby(prompts, key=lambda s: s.request.priority):
                if left > 0:
                    read = _side_by_side(list(equals), left)
                    left -= sum(share.n for share in read)
                    shares += read
        limit_ms = self._gap_ms if len(self.running) > 1 else max(self._gap_ms, QUIET_STEP_MS)
        self._add_guesses(shares, limit_ms / slower)
        self._fill_tile(shares)
        return shares

    def _add_guesses(self, shares: list[Share], limit_ms: float) -> None:
        """Gives guesses to the shares where tokens a second are expected to grow by it, most promising first."""
        rows = sum(share.rows for share in shares)
        open_ = [(s.sequence.guesser, s) for s in shares if s.complete and s.sequence.guesser]
        costs = self._threads.costs
        if not open_ or not costs.known:
            return
        tokens = float(sum(s.complete for s in shares))
        open_.sort(key=lambda pair: -pair[0].expected(TILE_ROWS - 1))
        for guesser, share in open_:
            most = min(self._room_for_guesses(share), self._n_batch - rows, self._max_outputs - _outputs(shares))
            best, best_rate = 0, _WORTH * tokens / costs.lately_ms(costs.filled(rows))
            for length in _lengths(rows):
                if length > most or costs.lately_ms(rows + length) > limit_ms:
                    break
                rate = (tokens + guesser.expected(length)) / costs.lately_ms(rows + length)
                if rate > best_rate:
                    best, best_rate = length, rate
            if best and (guesses := guesser.guess(best)):
                share.guesses, share.certain = guesses, min(guesser.certain, len(guesses))
                rows += len(guesses)
                tokens += guesser.expected(best)

    def _fill_tile(self, shares: list[Share]) -> None:
        """Adds guesses that are wrong most likely where a step is cheaper with more rows: three cost more than four."""
        rows = sum(share.rows for share in shares)
        most = min(self._n_batch, rows + self._max_outputs - _outputs(shares))
        missing = min(self._threads.costs.filled(rows), most) - rows
        for share in shares:
            if missing <= 0:
                return
            if share.complete and (n := min(missing, self._room_for_guesses(share) - len(share.guesses))) > 0:
                share.guesses = share.guesses + n * share.sequence.tokens[-1:]
                share.filling = n
                missing -= n

    def _room_for_guesses(self, share: Share) -> int:
        """No guesses beyond the end of the answer: the last token needs no cell."""
        return share.sequence.room - 1


def _outputs(shares: list[Share]) -> int:
    """Rows of logits that these shares ask for: one for the next token, and one behind each guess."""
    return sum(1 + len(share.guesses) for share in shares if share.complete)


def _side_by_side(prompts: list[Sequence], rows: int) -> list[Share]:
    """Divides `rows` among prompts, the oldest of which comes first and always gets some.

    In proportion to what is left of each: prompts of like length end in one step, and decode together from then on. So
    nobody is read beside answers, a few rows at a time, only because others were a little shorter. But a short prompt
    does not wait for a long one.
    """
    oldest, kept = prompts[0], 1
    most = LONGER * min(s.pending for s in prompts)
    total = sum(min(s.pending, most) for s in prompts)
    shares = []
    # The shortest first: what one does not need is there for those after it.
    for sequence in sorted(prompts, key=lambda s: s.pending):
        if sequence is oldest:
            kept = 0
        weight = min(sequence.pending, most)
        if n := min(rows - kept, max(1, rows * weight // total)):
            shares.append(Share.of(sequence, n))
            rows -= shares[-1].n
        total -= weight
    return shares


def _lengths(rows: int) -> list[int]:
    """Numbers of guesses that end a tile, given the rows that are there already: 3, 7, 15 and 31 beside one row."""
    used = rows % TILE_ROWS
    return [n for size in _BLOCKS if (n := size - used) > 0]
