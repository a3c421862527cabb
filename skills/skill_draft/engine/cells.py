"""The KV cache as a log.

An answer has the same bits whatever runs beside it only if a sequence's cells lie in the order of its positions, and
llama.cpp fills the lowest free cell first. So cells are taken one after the other and none is freed before the end of
the cache is reached: what has finished serves as a prefix, and what is of no use belongs to a trash slot. Then what is
worth keeping moves to the front, in order, and the rest is free. That is done early, too, when much of the log is trash:
attention looks at every cell up to the last used one.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from .binding import Context

TRASH = 0
_MOVER = 1  # the slot that carries cells while they move
_FIRST = 2
# Trash is swept when there are at least so many cells of it, and half as many as are of use: a move copies what is kept
# twice, 0.4 ms for 100 cells of a 135M model, and so costs a hundredth of what had to be computed to fill the trash.
_TRASH_CELLS = 512
Ints = npt.NDArray[np.int32]


def common_length(a: Ints, b: Ints) -> int:
    """How many tokens two lists share at their beginning."""
    n = min(len(a), len(b))
    differ = a[:n] != b[:n]
    first = int(differ.argmax()) if n else 0
    return first if n and differ[first] else n


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

    def append(self, tokens: Ints, cells: Ints) -> None:
        """Adds positions at the end."""
        end = self.length + len(tokens)
        if end > len(self._tokens):
            room = max(end, 2 * len(self._tokens))
            self._tokens, self._cells = np.resize(self._tokens, room), np.resize(self._cells, room)
        self._tokens[self.length : end], self._cells[self.length : end] = tokens, cells
        self.length = end


class CellLog:
    """All slots of a context: who owns which cells, what can be shared, and what moves when the log is full."""

    def __init__(self, context: Context, n_slots: int) -> None:
        self._context = context
        self.n_cells = context.n_cells
        self.used = 0
        self._free_ids = list(range(n_slots - 1, _FIRST - 1, -1))
        self.running: dict[int, Slot] = {}
        self.prefixes: dict[int, Slot] = {}
        self._look_again = _TRASH_CELLS
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

    def longest_match(self, tokens: Ints) -> tuple[Slot | None, int]:
        """The slot that shares the most tokens with the beginning of `tokens`, and how many."""
        best: Slot | None = None
        length = 0
        for slot in itertools.chain(self.running.values(), self.prefixes.values()):
            if slot.length > length and (n := common_length(slot.tokens, tokens)) > length:
                best, length = slot, n
        return best, length

    def open(self, tokens: Ints) -> Slot | None:
        """A slot for a sequence of `tokens`, forked from the longest prefix that is there; None if all are taken.

        At least the last token is left to compute, as its logits are what the sequence is for.
        """
        source, shared = self.longest_match(tokens[:-1])
        if not self._free_ids:
            spare = [p for p in self.prefixes.values() if p is not source] or list(self.prefixes.values())
            if not spare:
                return None
            oldest = min(spare, key=lambda p: p.last_used)
            if oldest is source:
                source, shared = None, 0
            self._drop(oldest, self.prefixes)
        slot = Slot(self._free_ids.pop())
        self.running[slot.id] = slot
        if source is not None and shared:
            self._context.copy_cells(source.id, slot.id, 0, shared)
            slot.append(source.tokens[:shared], source.cells[:shared])
            source.last_used = next(self._clock)
        return slot

    def filled(self, slots: Sequence[tuple[Slot, Ints]]) -> None:
        """Notes what a step has computed: for each slot in the order of the batch, the tokens of its rows."""
        for slot, tokens in slots:
            slot.append(tokens, np.arange(self.used, self.used + len(tokens), dtype=np.int32))
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
                self._drop(slot, self.prefixes)
                return
            if shared == other.length:
                self._drop(other, self.prefixes)

    def drop(self, slot: Slot) -> None:
        """A running sequence leaves without being of use as a prefix."""
        self._drop(slot, self.running)

    def forget_prefixes(self) -> int:
        """Drops all prefixes; how many there were."""
        dropped = list(self.prefixes.values())
        for slot in dropped:
            self._drop(slot, self.prefixes)
        return len(dropped)

    def _drop(self, slot: Slot, home: dict[int, Slot]) -> None:
        if slot.length:
            self._context.copy_cells(slot.id, TRASH)
            self._context.release_cells(slot.id)
        del home[slot.id]
        self._free_ids.append(slot.id)

    def sweep(self) -> None:
        """Moves what is owned to the front if much of what lies before the last used cell is trash."""
        if self.used < self._look_again:
            return
        owned = self.owned()
        if self.used - owned >= max(_TRASH_CELLS, owned // 2):
            self._move([*self.running.values(), *self.prefixes.values()])
        self._look_again = self.used + _TRASH_CELLS

    def make_room(self, n: int) -> bool:
        """Moves the running sequences, and the prefixes used last, to the front; False if that leaves less than n."""
        kept = list(self.running.values())
        budget = self.n_cells - n - self.n_cells // 4
        for prefix in sorted(self.prefixes.values(), key=lambda p: -p.last_used):
            if self._distinct([*kept, prefix]) <= budget:
                kept.append(prefix)
            else:
                self._drop(prefix, self.prefixes)
        self._move(kept)
        self._look_again = self.used + _TRASH_CELLS
        return self.room >= n

    def _move(self, slots: list[Slot]) -> None:
        """Rewrites the cache with these slots alone. What two of them share is moved once and stays shared."""
        owner = np.full(self.n_cells, -1, np.int32)
        moves: list[tuple[Slot, Slot | None, int, tuple[int, int] | None]] = []
        by_id = {slot.id: slot for slot in slots}
        self._context.begin_save()
        for slot in slots:
            # Forks copy from position 0 on, so what is shared with slots before this one is at its beginning.
            shared = int((owner[slot.cells] >= 0).sum())
            donor = by_id[int(owner[slot.cells[shared - 1]])] if shared else None
            place = None
            if shared < slot.length:
                self._context.copy_cells(slot.id, _MOVER, shared, slot.length)
                place = self._context.save(_MOVER)
                self._context.release_cells(_MOVER)
            owner[slot.cells[shared:]] = slot.id
            moves.append((slot, donor, shared, place))
        self._context.clear()
        self.used = 0
        for slot, donor, shared, place in moves:
            if donor is not None:
                self._context.copy_cells(donor.id, slot.id, 0, shared)
                slot.cells[:shared] = donor.cells[:shared]
            if place is not None:
                self._context.restore(_MOVER, place)
                self._context.copy_cells(_MOVER, slot.id)
                self._context.release_cells(_MOVER)
                own = slot.length - shared
                slot.cells[shared:] = np.arange(self.used, self.used + own, dtype=np.int32)
                self.used += own
