"""Decide what runs in the next step.

Decodes go first, then prompts, shortest first; speculative tokens are added as far as they pay. Independent of
llama.cpp.
"""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby

from .costs import LEAST_ROWS, TILE_ROWS
from .sequence import Sequence
from .threads import Threads

# Step limit when no other stream can be delayed: for prompts while nothing decodes, and for the speculative tokens of
# the only sequence. It also bounds how long a cancelled call lingers.
QUIET_STEP_MS = 1000.0
# Prompts that are prefilled together are at most this many times as long as the shortest of them.
ALIKE = 2
# The oldest prompt gets this share of the rows, however many shorter ones arrive after it.
OLDEST = 1 / 4
# The most rows of a step with images, whose input takes much more memory: 40 KiB for each row of a 4B.
EMBEDDED_ROWS = 128
# Prefill concurrent with decodes takes short steps. If a row of a long step costs less than this share of a row of a
# short one, it is better to prefill prompts together first and decode their answers together.
_DEAR = 0.85
# Speculation must promise at least this factor in tokens a second.
_WORTH = 1.05
# Step sizes that speculative tokens fill up to, counted from the last complete tile of rows.
_BLOCKS = (4, 8, 12, 16, 24, 32)


@dataclass(slots=True)
class Share:
    """A sequence's part of a step: `n` of its pending tokens, then speculative tokens."""

    sequence: Sequence
    n: int
    complete: bool
    """Whether the step computes all that is pending, so that the next token can be chosen."""
    speculative: list[int] = field(default_factory=list)
    num_forced: int = 0
    """How many of the speculative tokens, at the beginning, a grammar forces."""
    num_padding: int = 0
    """How many of the speculative tokens, at the end, only pad a tile."""

    @classmethod
    def of(cls, sequence: Sequence, n: int) -> Share:
        """Return the share of at most `n` of a sequence's pending tokens."""
        n = min(n, sequence.readable)
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
        """Set the bounds of a step.

        Args:
            threads: Knows what steps cost.
            n_batch: The most rows of a step.
            max_itl_ms: Bound on the inter-token latency of a stream, as far as others cause it.
            max_running: The most sequences that run at once.
            max_outputs: The most rows of logits of a step, for which memory was measured; `n_batch` by default.
        """
        self._threads, self._n_batch, self._max_itl_ms, self.max_running = threads, n_batch, max_itl_ms, max_running
        self._max_outputs = n_batch if max_outputs is None else max_outputs
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence, new or preempted, by its key."""
        insort(self.waiting, sequence, key=lambda s: s.queue_key)

    def start(self, sequence: Sequence) -> None:
        """Move a sequence from the queue to the running ones."""
        self.waiting.remove(sequence)
        insort(self.running, sequence, key=lambda s: s.queue_key)

    def hurry(self, sequences: Iterable[Sequence]) -> None:
        """Make sequences interactive, and move them in the queue accordingly."""
        for sequence in sequences:
            sequence.hurry()
        for home in (self.waiting, self.running):
            home.sort(key=lambda s: s.queue_key)

    def remove(self, sequence: Sequence) -> None:
        """Remove a sequence, waiting or running. Idempotent."""
        for home in (self.waiting, self.running):
            if sequence in home:
                home.remove(sequence)

    def preempt_youngest(self) -> Sequence | None:
        """Put the running sequence with the latest key back into the queue, unless it is the only one."""
        if len(self.running) < 2:
            return None
        youngest = self.running.pop()
        self.add(youngest)
        return youngest

    def ready(self) -> Iterator[Sequence]:
        """Yield the waiting sequences that could start now, in order, while fewer than `max_running` run.

        Sequences that wait for the rows of an image do not count: they would keep the others waiting with them.
        """
        for sequence in list(self.waiting):
            most = self.max_running
            if len(self.running) >= most and sum(s.readable > 0 for s in self.running) >= most:
                return
            if sequence not in self.waiting:  # its call has just failed, with all its candidates
                continue
            if sequence.leader is not None:
                leader, length = sequence.leader
                if leader in self.running and (leader.slot is None or leader.slot.length < length):
                    continue
                sequence.leader = None
            yield sequence

    def plan(self, *, trial: bool = False) -> list[Share]:
        """Return the shares of the next step. In a trial of threads, rows may cost double.

        It is empty if nothing runs, or if all that runs waits for the rows of images.
        """
        slower = 2 if trial else 1
        shares = [Share.of(s, 1) for s in self.running if s.decodes]
        prompts, n_batch = self._prompts()
        if prompts:
            left, together = self._reading(min(s.readable for s in prompts), len(shares), slower, n_batch)
            for _, equals in groupby(prompts, key=lambda s: s.request.priority):
                if left > 0:
                    read = _divide(list(equals), left, together=together)
                    left -= sum(share.n for share in read)
                    shares += read
        limit_ms = self._max_itl_ms if len(self.running) > 1 else max(self._max_itl_ms, QUIET_STEP_MS)
        self._add_speculative(shares, limit_ms / slower, n_batch)
        self._pad_tile(shares, n_batch)
        return shares

    def _prompts(self) -> tuple[list[Sequence], int]:
        """Return the sequences that may prefill in the next step, and the most rows that it may have.

        One of them may be at an image: the one that has begun it, so that images are read one after the other.
        """
        prompts = [s for s in self.running if not s.decodes and s.readable]
        if not (at_image := [s for s in prompts if s.image]):
            return prompts, self._n_batch
        reader = next((s for s in at_image if s.slot and s.image and s.slot.length > s.image.start), at_image[0])
        return [s for s in prompts if s is reader or s not in at_image], min(self._n_batch, EMBEDDED_ROWS)

    def _reading(self, shortest: int, decodes: int, slower: int, n_batch: int) -> tuple[int, bool]:
        """Return how many rows prompts get in the step, and whether prompts of like length should end together."""
        costs = self._threads.costs
        short, long = (costs.rows_within(ms / slower, n_batch) for ms in (self._max_itl_ms, QUIET_STEP_MS))
        together = costs.recent_ms(long) / long < _DEAR * costs.recent_ms(short) / short
        if decodes:
            # The oldest prompt always advances, however many sequences decode.
            return max(LEAST_ROWS, short - decodes), together
        # A long step delays nobody except the sequence whose prompt is completed in it.
        return long if together else min(long, max(short, shortest)), together

    def _add_speculative(self, shares: list[Share], limit_ms: float, n_batch: int) -> None:
        """Add speculative tokens to shares, most promising first, where they are expected to raise tokens a second."""
        rows = sum(share.rows for share in shares)
        open_ = [(s.sequence.speculator, s) for s in shares if s.complete and s.sequence.speculator]
        costs = self._threads.costs
        if not open_ or not costs.known:
            return
        tokens = float(sum(s.complete for s in shares))
        open_.sort(key=lambda pair: -pair[0].expected(TILE_ROWS - 1))
        for speculator, share in open_:
            most = min(self._speculative_room(share), n_batch - rows, self._max_outputs - _outputs(shares))
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

    def _pad_tile(self, shares: list[Share], n_batch: int) -> None:
        """Pad the step with arbitrary tokens if more rows make it cheaper: three rows can cost more than four."""
        rows = sum(share.rows for share in shares)
        most = min(n_batch, rows + self._max_outputs - _outputs(shares))
        missing = min(self._threads.costs.padded(rows), most) - rows
        for share in shares:
            if missing <= 0:
                return
            if share.complete and (n := min(missing, self._speculative_room(share) - len(share.speculative))) > 0:
                share.speculative = share.speculative + n * share.sequence.tokens[-1:]
                share.num_padding = n
                missing -= n

    def _speculative_room(self, share: Share) -> int:
        """Return the most speculative tokens a share may have: the answer's last token needs no cell."""
        return share.sequence.room - 1


def _outputs(shares: list[Share]) -> int:
    """Return the rows of logits of these shares: one for the next token and one after each speculative token."""
    return sum(1 + len(share.speculative) for share in shares if share.complete)


def _divide(prompts: list[Sequence], rows: int, *, together: bool) -> list[Share]:
    """Divide `rows` among prompts, those with the fewest tokens to read first.

    This minimises the average time to first token: a short prompt does not wait for a long one. The oldest prompt
    always advances.

    Args:
        prompts: Sequences to prefill, oldest first.
        rows: How many rows to divide.
        together: Whether prompts of like length share rows in proportion to their tokens to read, so that they end in
            the same step and decode together from then on. Otherwise they are prefilled one after the other.
    """
    order = sorted(prompts, key=lambda s: s.readable)
    alike = [s for s in order if s.readable <= ALIKE * order[0].readable] if together else order[:1]
    given, oldest = dict.fromkeys(order, 0), prompts[0]
    given[oldest] = 1 if oldest in alike else min(oldest.readable, math.ceil(OLDEST * rows))
    left, total = rows - given[oldest], sum(s.readable for s in alike)
    for sequence in alike:
        left += given[sequence]
        given[sequence] = min(left, sequence.readable, max(1, left * sequence.readable // total))
        left, total = left - given[sequence], total - sequence.readable
    for sequence in order:
        more = min(left, sequence.readable - given[sequence])
        given[sequence] += more
        left -= more
    return [Share.of(sequence, n) for sequence, n in given.items() if n]


def _lengths(rows: int) -> list[int]:
    """Return the numbers of speculative tokens to consider on top of `rows` rows: 1, 2, 3, 7, 11 and so on for one row.

    They complete tiles, which is cheapest with llama.cpp's own kernels, or are few, as our kernels have no tiles.
    """
    used = rows % TILE_ROWS
    whole = [n for size in _BLOCKS if (n := size - used) > 0]
    return [*range(1, whole[0]), *whole]
