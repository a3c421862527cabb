"""The KV cache as a log.

An answer has the same bits whatever runs beside it only if a sequence's cells lie in the order of its positions, and
llama.cpp fills the lowest free cell first. So cells are taken one after the other and none is freed before the end of
the cache is reached: what has finished serves as a prefix, and what is of no use belongs to a trash slot. Then what is
worth keeping moves to the front, in order, and the rest is free. That is done long before, too, when much of the log is
used by nobody: attention looks at every cell up to the last used one. Then prefixes are parked in plain memory.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Protocol

import numpy as np

from .parking import Bytes, Parked, Parking
from .tokens import Ints, common_length

TRASH = 0
_MOVER = 1  # the slot that carries cells while they move
_FIRST = 2
# The log is swept when at least so many cells are of no use, and half as many as are of use. A move copies what is kept
# twice: 0.4 ms for 100 cells of a 135M model, a hundredth of what it takes to fill as many.
_SWEPT_CELLS = 512
# Prefixes used last stay in the log for their cells to be shared, up to so many cells beside the running sequences.
_WARM_CELLS = 512


class CellMemory(Protocol):
    """What the log needs of a KV cache. It fills the lowest free cells first; see `binding.Context`."""

    n_cells: int

    def copy_cells(self, source: int, target: int, start: int = -1, end: int = -1) -> None:
        """Share a slot's cells at positions [start, end) with another slot."""

    def release_cells(self, slot: int, start: int = -1, end: int = -1) -> None:
        """Free a slot's cells at positions [start, end), but for those that are shared."""

    def saved_size(self, slot: int) -> int:
        """Return the bytes of a slot's cells when saved."""

    def save_into(self, slot: int, room: Bytes) -> None:
        """Copy a slot's cells into `saved_size` bytes."""

    def begin_save(self) -> None:
        """Forget what `save` kept."""

    def save(self, slot: int) -> tuple[int, int]:
        """Keep a copy of a slot's cells, and return its place."""

    def saved(self, place: tuple[int, int]) -> Bytes:
        """Return what `save` kept, good until the next `save`."""

    def restore(self, slot: int, data: Bytes) -> None:
        """Fill an empty slot with saved cells."""


class Slot:
    """A sequence's place in the cache: the token and the cell at each of its positions."""

    __slots__ = ("_cells", "_tokens", "id", "last_used", "length")

    def __init__(self, id_: int) -> None:
        self.id = id_
        self.length = 0
        self.last_used = 0
        self._tokens, self._cells = np.empty(256, np.int32), np.empty(256, np.int32)

    @property
    def tokens(self) -> Ints:
        """The tokens whose cells are filled, shape (length,)."""
        return self._tokens[: self.length]

    @property
    def cells(self) -> Ints:
        """Their cells, ascending."""
        return self._cells[: self.length]

    def append(self, tokens: Ints, cells: Ints | range) -> None:
        """Adds positions at the end."""
        end = self.length + len(tokens)
        if end > len(self._tokens):
            room = max(end, 2 * len(self._tokens))
            self._tokens, self._cells = np.resize(self._tokens, room), np.resize(self._cells, room)
        self._tokens[self.length : end], self._cells[self.length : end] = tokens, cells
        self.length = end


class CellLog:
    """All slots of a context: who owns which cells, what can be shared, and what moves when the log is full."""

    def __init__(self, context: CellMemory, n_slots: int, parking: Parking, *, block_cells: int) -> None:
        """`block_cells` cells are copied at once where cells have to move: that bounds the memory for it."""
        self._context, self._parking, self._block_cells = context, parking, block_cells
        self.n_cells = context.n_cells
        self.used = 0
        self._free_ids = list(range(n_slots - 1, _FIRST - 1, -1))
        self.running: dict[int, Slot] = {}
        self.prefixes: dict[int, Slot] = {}
        self._look_again = _SWEPT_CELLS
        self._clock = itertools.count(1)

    @property
    def room(self) -> int:
        """Cells that can be filled before something must move."""
        return self.n_cells - self.used

    def live(self) -> int:
        """Cells that running sequences own; shared ones count once."""
        return self._distinct(self.running.values())

    def owned(self) -> int:
        """Cells that running sequences and prefixes own; shared ones count once."""
        return self._distinct([*self.running.values(), *self.prefixes.values()])

    def _distinct(self, slots: Iterable[Slot]) -> int:
        seen = np.zeros(self.n_cells, bool)
        for slot in slots:
            seen[slot.cells] = True
        return int(seen.sum())

    def longest_match(self, tokens: Ints) -> tuple[int, int]:
        """How many tokens at the beginning of `tokens` need not be computed, and how many of them need no new cells."""
        _, in_cells = self._longest_in_cells(tokens)
        return self._parking.longest_match(tokens, in_cells)[1] or in_cells, in_cells

    def _longest_in_cells(self, tokens: Ints) -> tuple[Slot | None, int]:
        best: Slot | None = None
        length = 0
        for slot in itertools.chain(self.running.values(), self.prefixes.values()):
            if slot.length > length and (n := common_length(slot.tokens, tokens)) > length:
                best, length = slot, n
        return best, length

    def open(self, tokens: Ints) -> Slot | None:
        """A slot for a sequence of `tokens`, with the longest beginning that is there; None if all slots are taken.

        At least the last token is left to compute, as its logits are what the sequence is for.
        """
        wanted = tokens[:-1]
        source, shared = self._longest_in_cells(wanted)
        if not self._free_ids:
            spare = [p for p in self.prefixes.values() if p is not source] or list(self.prefixes.values())
            if not spare:
                return None
            self._park(min(spare, key=lambda p: p.last_used))
            source, shared = self._longest_in_cells(wanted)
        slot = Slot(self._free_ids.pop())
        parked, more = self._parking.longest_match(wanted, shared)
        if parked and len(parked.tokens) > self.room:
            self.make_room(len(parked.tokens))  # which parks prefixes, and may give up parked ones
            source, shared = self._longest_in_cells(wanted)
            parked, more = self._parking.longest_match(wanted, shared)
        if parked and len(parked.tokens) <= self.room:
            self._unpark(slot, parked, more)
        elif source:
            self._context.copy_cells(source.id, slot.id, 0, shared)
            slot.append(source.tokens[:shared], source.cells[:shared])
            source.last_used = next(self._clock)
        self.running[slot.id] = slot
        return slot

    def _unpark(self, slot: Slot, parked: Parked, length: int) -> None:
        """Fills an empty slot with the first `length` tokens of a parked prefix.

        It is restored as a whole; what goes beyond `length` becomes trash, and stays parked.
        """
        n = len(parked.tokens)
        self._context.restore(slot.id, self._parking.bytes_of(parked))
        slot.append(parked.tokens, range(self.used, self.used + n))
        self.used += n
        self.truncate(slot, length)
        parked.last_used = next(self._clock)

    def _park(self, slot: Slot) -> None:
        """Takes a prefix out of the log, into plain memory."""
        if self._parking.room:
            size = self._context.saved_size(slot.id)
            self._parking.put(slot.tokens, size, lambda room: self._context.save_into(slot.id, room), slot.last_used)
        self._drop(slot)

    def filled(self, slot: Slot, tokens: Ints) -> None:
        """Notes what a step has computed for a slot. To be told in the order of the batch."""
        slot.append(tokens, range(self.used, self.used + len(tokens)))
        self.used += len(tokens)

    def truncate(self, slot: Slot, length: int) -> None:
        """Gives the cells from position `length` on to the trash."""
        if length < slot.length:
            self._context.copy_cells(slot.id, TRASH, length, slot.length)
            self._context.release_cells(slot.id, length, slot.length)
            slot.length = length

    def keep(self, slot: Slot) -> None:
        """A sequence has finished: its cells stay as a prefix, unless another prefix says the same and more."""
        del self.running[slot.id]
        self.prefixes[slot.id] = slot
        slot.last_used = next(self._clock)
        for other in list(self.prefixes.values()):
            if other is slot:
                continue
            shared = common_length(other.tokens, slot.tokens)
            if shared == slot.length:
                other.last_used = slot.last_used
                self._drop(slot)
                return
            if shared == other.length:
                self._drop(other)

    def set_aside(self, slot: Slot) -> None:
        """A running sequence leaves for a while, and its cells have to go."""
        self.prefixes[slot.id] = self.running.pop(slot.id)
        self._park(slot)

    def forget_prefixes(self) -> int:
        """Drops all prefixes, parked ones too; how many there were."""
        dropped = list(self.prefixes.values())
        for slot in dropped:
            self._drop(slot)
        return len(dropped) + self._parking.clear()

    def _drop(self, slot: Slot) -> None:
        if slot.length:
            self._context.copy_cells(slot.id, TRASH)
            self._context.release_cells(slot.id)
        del self.prefixes[slot.id]
        self._free_ids.append(slot.id)

    def sweep(self) -> None:
        """Moves what is of use to the front if much of what lies before the last used cell is not."""
        if self.used < self._look_again:
            return
        # Without room to park, prefixes stay where they are until the log is full: reading one again costs more.
        of_use = self.live() + _WARM_CELLS if self._parking.room else self.owned()
        if self.used - of_use >= max(_SWEPT_CELLS, of_use // 2):
            self._compact(of_use)
        else:
            self._look_again = self.used + _SWEPT_CELLS

    def make_room(self, n: int) -> bool:
        """Moves the running sequences, and the prefixes used last, to the front; False if that leaves less than n."""
        self._compact(self.n_cells - n - self.n_cells // 4)
        return self.room >= n

    def _compact(self, budget: int) -> None:
        """Keeps the running sequences, and prefixes as long as all of it is not more than `budget` cells."""
        kept = list(self.running.values())
        for prefix in sorted(self.prefixes.values(), key=lambda p: -p.last_used):
            if self._distinct([*kept, prefix]) <= budget:
                kept.append(prefix)
            else:
                self._park(prefix)
        self._move(kept)
        self._look_again = self.used + _SWEPT_CELLS

    def _move(self, slots: list[Slot]) -> None:
        """Frees the cells that none of these slots owns and closes the gaps, in place.

        Cells move to the front in blocks, in the order in which they lie. So each slot's cells stay in the order of
        its positions, what two slots share stays shared, and the copies of one block are all the memory it takes.
        """
        kept = np.zeros(self.n_cells, bool)
        for slot in slots:
            kept[slot.cells] = True
        self._context.release_cells(TRASH)
        cells = np.flatnonzero(kept).astype(np.int32)
        front = int(np.count_nonzero(cells == np.arange(len(cells))))  # up to the first gap nothing has to move
        for start in range(front, len(cells), self._block_cells):
            block = cells[start : start + self._block_cells]
            self._move_block(slots, int(block[0]), int(block[-1]) + 1, to=start)
        self.used = len(cells)

    def _move_block(self, slots: list[Slot], first: int, end: int, *, to: int) -> None:
        """Moves the kept cells in [first, end) to the free cells from `to` on."""
        parts = [(slot, *_between(slot.cells, first, end)) for slot in slots]
        new = np.full(end - first, -1, np.int32)  # where each cell of the block goes
        moves = []
        self._context.begin_save()
        for slot, begin, stop in parts:
            # Forks copy from position 0 on, so what an earlier slot shares with this one is at its beginning.
            own = begin + int(np.count_nonzero(new[slot.cells[begin:stop] - first] >= 0))
            if own == stop:
                continue
            self._context.copy_cells(slot.id, _MOVER, own, stop)
            place = self._context.save(_MOVER)
            self._context.release_cells(_MOVER)
            target = range(to, to + stop - own)
            new[slot.cells[own:stop] - first] = target
            moves.append((place, target))
            to = target.stop
        for slot, begin, stop in parts:
            if begin == stop:
                continue  # llama.cpp would take an empty range for all of it
            self._context.release_cells(slot.id, begin, stop)
            slot.cells[begin:stop] = new[slot.cells[begin:stop] - first]
        for place, target in moves:
            self._context.restore(_MOVER, self._context.saved(place))
            for slot, _, stop in parts:
                begin, end = _between(slot.cells[:stop], target.start, target.stop)
                if begin < end:
                    self._context.copy_cells(_MOVER, slot.id, begin, end)
            self._context.release_cells(_MOVER)


def _between(cells: Ints, first: int, end: int) -> tuple[int, int]:
    """The positions whose cells lie in [first, end); cells ascend with the positions."""
    begin, stop = np.searchsorted(cells, (first, end))
    return int(begin), int(stop)
