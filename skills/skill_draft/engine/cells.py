"""The KV cache as a log.

An answer has the same bits whatever runs concurrently only if a sequence's cells are in the order of its positions, and
llama.cpp fills the lowest free cell first. So cells are taken one after the other and none is freed before the end of
the cache is reached: finished sequences serve as prefixes, and useless cells belong to a trash slot. Then the cells
worth keeping move to the front, in order, and the rest is freed. The log is also swept earlier if much of it is
useless, as attention visits every cell up to the last used one; prefixes are then parked in plain memory.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import numpy as np

from .parking import Parked, Parking
from .slots import CellMemory, Owner, Slot
from .tokens import Bools, Bytes, Ints, common_length, image_border

TRASH = 0
_MOVER = 1  # the slot that owns cells while they move
_FIRST = 2
# The log is swept when at least this many cells are useless, and half as many as are useful. A move copies the kept
# cells twice: 0.4 ms for 100 cells of a 135M model, a hundredth of the time it takes to fill them.
_SWEPT_CELLS = 512
# The most cells of recently used prefixes that stay in the log for sharing, in addition to the running sequences.
_WARM_CELLS = 512


class CellLog:
    """All slots of a context: which cells each owns, what can be shared, and what moves when the log is full."""

    def __init__(self, context: CellMemory, n_slots: int, parking: Parking, *, block_cells: int) -> None:
        """Cells move in blocks of `block_cells`, which bounds the memory for the copies."""
        self._context, self._parking, self._block_cells = context, parking, block_cells
        self.n_cells = context.n_cells
        self.used = 0
        self._free_ids = list(range(n_slots - 1, _FIRST - 1, -1))
        self.running: dict[int, Slot] = {}
        self.prefixes: dict[int, Slot] = {}
        self._look_again = _SWEPT_CELLS
        self._cell_bytes = 0.0
        self._clock = itertools.count(1)

    @property
    def room(self) -> int:
        """Number of cells that can be filled before something must move."""
        return self.n_cells - self.used

    def live(self) -> int:
        """Return the number of cells that running sequences own; shared ones count once."""
        return self._distinct(self.running.values())

    def owned(self) -> int:
        """Return the number of cells that running sequences and prefixes own; shared ones count once."""
        return self._distinct([*self.running.values(), *self.prefixes.values()])

    def _distinct(self, slots: Iterable[Slot]) -> int:
        seen = np.zeros(self.n_cells, bool)
        for slot in slots:
            seen[slot.cells] = True
        return int(seen.sum())

    def longest_match(self, tokens: Ints, tenant: str) -> tuple[int, int]:
        """Return how many leading tokens need not be computed, and how many of them need no new cells."""
        _, in_cells = self._longest_in_cells(tokens, tenant)
        return self._parking.longest_match(tokens, in_cells, tenant)[1] or in_cells, in_cells

    def _longest_in_cells(self, tokens: Ints, tenant: str) -> tuple[Slot | None, int]:
        best: Slot | None = None
        length = 0
        for slot in itertools.chain(self.running.values(), self.prefixes.values()):
            if slot.owner.tenant != tenant or slot.length <= length:
                continue
            if (n := common_length(slot.tokens, tokens)) > length:
                # One that ends in mid-image does not share that image: two would own half of it, and go on with it.
                n = image_border(tokens, n)
                best, length = (slot, n) if n > length else (best, length)
        return best, length

    def open(self, tokens: Ints, owner: Owner) -> Slot | None:
        """Return a slot for a sequence, filled with the longest known prefix of `tokens`; None if all slots are taken.

        At least the last token is left to compute, as its logits are needed. Only prefixes of the same tenant count.
        """
        wanted, tenant = tokens[:-1], owner.tenant
        source, shared = self._longest_in_cells(wanted, tenant)
        if not self._free_ids:
            spare = [p for p in self.prefixes.values() if p is not source] or list(self.prefixes.values())
            if not spare:
                return None
            self._park(min(spare, key=lambda p: p.last_used))
            source, shared = self._longest_in_cells(wanted, tenant)
        slot = Slot(self._free_ids.pop(), owner)
        parked, more = self._parking.longest_match(wanted, shared, tenant)
        if parked and len(parked.tokens) > self.room:
            self.make_room(len(parked.tokens))  # which parks prefixes and may evict parked ones
            source, shared = self._longest_in_cells(wanted, tenant)
            parked, more = self._parking.longest_match(wanted, shared, tenant)
        if parked and len(parked.tokens) <= self.room:
            self._unpark(slot, parked, more)
        elif source:
            self._context.copy_cells(source.id, slot.id, 0, source.position(shared))
            slot.append(source.tokens[:shared], source.positions[:shared], source.cells[:shared])
            source.last_used = next(self._clock)
        if (origin := parked or source) and _forks(origin, slot):
            slot.forked_at = slot.length
        self.running[slot.id] = slot
        return slot

    def _unpark(self, slot: Slot, parked: Parked, length: int) -> None:
        """Fill an empty slot with the first `length` tokens of a parked prefix.

        All of it is restored; what exceeds `length` becomes trash. The parked copy stays complete.
        """
        n = len(parked.tokens)
        self._context.restore(slot.id, self._parking.bytes_of(parked))
        slot.append(parked.tokens, parked.positions, range(self.used, self.used + n))
        self.used += n
        self.truncate(slot, length)
        parked.last_used = next(self._clock)

    def _park(self, slot: Slot) -> None:
        """Move a prefix from the log to plain memory."""
        if self._parking.room:
            size = self._context.saved_size(slot.id)
            tokens, positions = slot.tokens.copy(), slot.positions.copy()
            parked = Parked(tokens, positions, owner=slot.owner, size=size, last_used=slot.last_used)
            self._parking.put(parked, lambda room: self._context.save_into(slot.id, room))
        self._drop(slot)

    def restore(self, slot: Slot, tokens: Ints, positions: Ints, data: Bytes, start: int) -> bool:
        """Fill a running slot with a saved block; return False if there is no room for it.

        Args:
            slot: It has the tokens before the block, and perhaps some of the block.
            tokens: The tokens of the block; `positions` are theirs.
            positions: Positions, as llama.cpp goes by them.
            data: What `saved_block` returned.
            start: The index of the block's first token, not in mid-image.
        """
        n = len(tokens)
        if n > self.room and not self.make_room(n):
            return False
        self.truncate(slot, start)
        self._context.restore(_MOVER, data)
        self._context.copy_cells(_MOVER, slot.id)
        self._context.release_cells(_MOVER)
        self.filled(slot, tokens, positions)
        return True

    def saved_block(self, tokens: Ints, start: int, tenant: str) -> Bytes | None:
        """Return a view of the cells of `tokens[start:]`, valid until cells are saved again; None if they are gone.

        A parked prefix is restored for that, so this may take as long as opening a slot. The tokens neither begin nor
        end in mid-image.
        """
        source, n = self._longest_in_cells(tokens, tenant)
        if n < len(tokens) and self._parking.longest_match(tokens, n, tenant)[1] == len(tokens):
            if slot := self.open(np.append(tokens, np.int32(0)), Owner(tenant)):
                self.keep(slot)
            source, n = self._longest_in_cells(tokens, tenant)
        if source is None or n < len(tokens):
            return None
        self._context.copy_cells(source.id, _MOVER, source.position(start), source.position(n))
        saved = self._context.save(_MOVER)
        self._context.release_cells(_MOVER)
        return saved

    def filled(self, slot: Slot, tokens: Ints, positions: Ints) -> None:
        """Record the tokens that a step computed for a slot; call in the order of the batch."""
        slot.append(tokens, positions, range(self.used, self.used + len(tokens)))
        self.used += len(tokens)

    def truncate(self, slot: Slot, length: int) -> None:
        """Move the cells from index `length` on, which is not in mid-image, to the trash."""
        if length < slot.length:
            self._context.copy_cells(slot.id, TRASH, slot.position(length))
            self._context.release_cells(slot.id, slot.position(length))
            slot.length = length

    def keep(self, slot: Slot) -> None:
        """Turn a finished sequence into a prefix, unless another covers it; drop those that it covers."""
        del self.running[slot.id]
        self.prefixes[slot.id] = slot
        slot.last_used = next(self._clock)
        for other in list(self.prefixes.values()):
            if other is slot or other.owner.tenant != slot.owner.tenant:
                continue
            shared = common_length(other.tokens, slot.tokens)
            if shared == slot.length:
                other.last_used = slot.last_used
                self._drop(slot)
                return
            if shared == other.length:
                self._drop(other)
        if self._parking.room and slot.length:
            self._cell_bytes = self._cell_bytes or self._context.saved_size(slot.id) / slot.length
            self._parking.expect(int(self._cell_bytes * sum(prefix.length for prefix in self.prefixes.values())))

    def set_aside(self, slot: Slot) -> None:
        """Park a preempted sequence."""
        self.prefixes[slot.id] = self.running.pop(slot.id)
        self._park(slot)

    def forget_prefixes(self) -> int:
        """Drop all prefixes, including parked ones; return their number."""
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
        """Compact the log if many of the cells up to the last used one are useless."""
        if self.used < self._look_again or not self._parking.ready:
            return
        # Without room to park, prefixes stay in the log until it is full: prefilling one again would cost more.
        of_use = self.live() + _WARM_CELLS if self._parking.room else self.owned()
        if self.used - of_use >= max(_SWEPT_CELLS, of_use // 2):
            self._compact(of_use)
        else:
            self._look_again = self.used + _SWEPT_CELLS

    def make_room(self, n: int) -> bool:
        """Compact the log to running sequences and recent prefixes; return whether `n` cells are then free."""
        self._compact(self.n_cells - n - self.n_cells // 4)
        return self.room >= n

    def _compact(self, budget: int) -> None:
        """Keep the running sequences and the most recently used prefixes, up to `budget` cells; park the others."""
        kept = list(self.running.values())
        for prefix in sorted(self.prefixes.values(), key=lambda p: -p.last_used):
            if self._distinct([*kept, prefix]) <= budget:
                kept.append(prefix)
            else:
                self._park(prefix)
        self._move(kept)
        self._look_again = self.used + _SWEPT_CELLS

    def _move(self, slots: list[Slot]) -> None:
        """Free the cells that none of these slots owns and close the gaps, in place.

        Cells move in blocks: a block is saved, its cells are freed, and it takes the lowest free ones, which are never
        behind those that it had. So each slot's cells stay in the order of its tokens, shared cells stay shared, and
        only the copy of one block takes memory.
        """
        self._context.release_cells(TRASH)
        taken = np.zeros(self.n_cells, bool)
        for slot in slots:
            taken[slot.cells] = True
        self.used = int(np.count_nonzero(taken))
        for slot in slots:
            while not taken.all():
                # What has been moved, for this slot or for another that shares it, lies before the first gap.
                begin = image_border(slot.tokens, int(np.searchsorted(slot.cells, taken.argmin())))
                if begin == slot.length:
                    break
                self._move_block(slots, slot, begin, self._end_of_block(slot, begin), taken)

    def _end_of_block(self, slot: Slot, begin: int) -> int:
        """Return where the block that begins with a slot's token ends; an image is never divided."""
        end = min(begin + self._block_cells, slot.length)
        border = image_border(slot.tokens, end)
        if border <= begin:  # a large image is a block of its own
            inside = np.flatnonzero(np.diff(slot.tokens[begin:]) != -1)
            return begin + int(inside[0]) + 1 if len(inside) else slot.length
        return border

    def _move_block(self, slots: list[Slot], slot: Slot, begin: int, end: int, taken: Bools) -> None:
        """Move the cells of a slot's tokens [begin, end) to the lowest free ones, for all slots that share them.

        Args:
            slots: All slots that keep their cells.
            slot: The one of them whose cells move.
            begin: Index of the first token of the block.
            end: Index after its last token.
            taken: Which cells are in use; updated.
        """
        context, old = self._context, slot.cells[begin:end].copy()
        context.copy_cells(slot.id, _MOVER, slot.position(begin), slot.position(end))
        saved = context.save(_MOVER)
        context.release_cells(_MOVER)
        sharers = [(other, begin + n) for other in slots if (n := common_length(other.cells[begin:end], old))]
        for other, stop in sharers:
            context.release_cells(other.id, other.position(begin), other.position(stop))
        taken[old] = False
        new = np.flatnonzero(~taken)[: len(old)].astype(np.int32)
        taken[new] = True
        context.restore(_MOVER, saved)
        for other, stop in sharers:
            bound = slot.position(stop) if stop < end else -1
            context.copy_cells(_MOVER, other.id, slot.position(begin), bound)
            other.cells[begin:stop] = new[: stop - begin]
        context.release_cells(_MOVER)


def _forks(origin: Slot | Parked, slot: Slot) -> bool:
    """Return whether a new slot's request goes another way than the earlier one from which it has its first tokens.

    The next turn of a conversation does not: it has all tokens of the turn before.
    """
    ours, theirs = slot.owner, origin.owner
    return ours.keep and theirs.keep and ours.request != theirs.request and slot.length < len(origin.tokens)
