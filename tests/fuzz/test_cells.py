"""The cell log compared with a model of llama.cpp's cache: each slot's cells always hold its tokens, in order."""

from __future__ import annotations

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from skills.skill_draft.engine.cells import CellLog
from skills.skill_draft.engine.parking import Parking
from skills.skill_draft.engine.slots import Owner, Slot
from skills.skill_draft.engine.tokens import Bytes, common_length

N_CELLS, N_SLOTS, BYTES_A_CELL = 96, 10, 8
END = 1 << 30


class Cache:
    """A KV cache like llama.cpp's: each cell has a position, a content, and sequences that own it.

    The lowest free cells are filled first. The content of a cell is the token that it was computed for.
    """

    def __init__(self) -> None:
        self.n_cells = N_CELLS
        self.owners: list[set[int]] = [set() for _ in range(N_CELLS)]
        self.positions, self.tokens = [0] * N_CELLS, [0] * N_CELLS
        self.most_saved = 0

    def cells_of(self, slot: int, start: int = -1, end: int = -1) -> list[int]:
        within = range(max(start, 0), end if end >= 0 else END)
        return [c for c in range(N_CELLS) if slot in self.owners[c] and self.positions[c] in within]

    def fill(self, slot: int, position: int, token: int) -> None:
        cell = next(c for c in range(N_CELLS) if not self.owners[c])
        self.owners[cell], self.positions[cell], self.tokens[cell] = {slot}, position, token

    def copy_cells(self, source: int, target: int, start: int = -1, end: int = -1) -> None:
        for cell in self.cells_of(source, start, end):
            self.owners[cell].add(target)

    def release_cells(self, slot: int, start: int = -1, end: int = -1) -> None:
        for cell in self.cells_of(slot, start, end):
            self.owners[cell].discard(slot)

    def saved_size(self, slot: int) -> int:
        return BYTES_A_CELL * len(self.cells_of(slot))

    def save_into(self, slot: int, room: Bytes) -> None:
        cells = self.cells_of(slot)
        room.view(np.int32)[:] = [v for c in cells for v in (self.positions[c], self.tokens[c])]

    def save(self, slot: int) -> Bytes:
        saved = np.empty(self.saved_size(slot), np.uint8)
        self.save_into(slot, saved)
        self.most_saved = max(self.most_saved, len(saved) // BYTES_A_CELL)
        return saved

    def restore(self, slot: int, data: Bytes) -> None:
        assert not self.cells_of(slot)
        for position, token in data.view(np.int32).reshape(-1, 2).tolist():
            self.fill(slot, position, token)


BLOCK = 7
TENANTS = ["", "one"]
# Images by their number of tokens: their first ids, with a gap between two of them. The last is larger than a block.
IMAGES = {1: -2, 2: -4, 4: -7, 9: -12}
LARGEST = max(IMAGES)
PARTS = st.lists(st.one_of(st.integers(0, 2), st.integers(0, 2), st.sampled_from(sorted(IMAGES.values()))), max_size=14)


def tokens_of(parts: list[int]) -> list[int]:
    """Text tokens as they are, and the run of each image that a first id stands for."""
    lengths = {first: n for n, first in IMAGES.items()}
    return [part - i for part in parts for i in range(lengths.get(part, 1))]


def positions_of(tokens: list[int]) -> list[int]:
    """All tokens of an image have one position, and it takes as many as its number of tokens, halved."""
    positions: list[int] = []
    following = 0
    for i, token in enumerate(tokens):
        if i and token < 0 and tokens[i - 1] == token + 1:
            positions.append(positions[-1])
            following += len(positions) % 2
        else:
            positions.append(following)
            following += 1
    return positions


def mid_image(tokens: list[int], n: int) -> bool:
    """Whether a cut after `n` tokens divides an image."""
    return 0 < n < len(tokens) and tokens[n] < 0 and tokens[n - 1] == tokens[n] + 1


class CellLogMachine(RuleBasedStateMachine):
    """Sequences begin, share prefixes, write, are truncated and end, in a cache that is always too small."""

    def __init__(self) -> None:
        super().__init__()
        self.cache = Cache()
        parking = Parking(40 * BYTES_A_CELL)
        self.log = CellLog(self.cache, N_SLOTS, parking, block_cells=BLOCK)
        self.running: list[tuple[Slot, list[int]]] = []
        self.begun = 0
        self.seen: dict[str, list[list[int]]] = {tenant: [] for tenant in TENANTS}
        """All that sequences of a tenant have had in their cells."""
        self.files: list[tuple[str, list[int], int, Bytes]] = []
        """Blocks that were saved: the tenant, the tokens up to the end, the index of the first one, the cells."""

    def _room(self, n: int) -> bool:
        return n <= self.log.room or self.log.make_room(n)

    def _write(self, slot: Slot, whole: list[int], n: int) -> None:
        """Fill the cells of the next `n` tokens of the whole sequence."""
        start, positions = slot.length, positions_of(whole)
        for i in range(start, start + n):
            self.cache.fill(slot.id, positions[i], whole[i])
        new = slice(start, start + n)
        self.log.filled(slot, np.asarray(whole[new], np.int32), np.asarray(positions[new], np.int32))

    @precondition(lambda self: len(self.running) < 4)
    @rule(parts=PARTS, last=st.integers(0, 2), stops=st.integers(0, 12), tenant=st.sampled_from(TENANTS))
    def begin(self, parts: list[int], last: int, stops: int, tenant: str) -> None:
        """A prompt, of which up to `stops` tokens at the end are left to read: perhaps in mid-image."""
        prompt = [*tokens_of(parts), 0, last]
        tokens = np.asarray(prompt, np.int32)
        own = [slot for slot, _ in self.running if slot.owner.tenant == tenant]
        running = [common_length(slot.tokens, tokens[:-1]) for slot in own]
        most = max(self.log.longest_match(tokens[:-1], tenant))
        self.begun += 1
        slot = self.log.open(tokens, Owner(tenant, self.begun))
        assert slot is not None
        past = [common_length(np.asarray(seen, np.int32), tokens) for seen in self.seen[tenant]]
        assert slot.length <= max(past, default=0), "what another tenant computed was shared"
        most = max(most, self._restore(slot, prompt))
        assert all(n <= slot.length or mid_image(prompt, n) for n in running), "a running prefix was not shared"
        assert slot.length <= most
        assert slot.tokens.tolist() == prompt[: slot.length]
        self.running.append((slot, prompt[: slot.length]))
        n = max(0, len(prompt) - stops - slot.length)
        if self._room(n):
            self._write(slot, prompt, n)
            self.running[-1][1][:] = prompt[: slot.length]

    def _restore(self, slot: Slot, prompt: list[int]) -> int:
        """Continue the slot with saved blocks of its prompt, as if files had them; return how far they go."""
        for tenant, before, start, data in self.files:
            n = len(before)
            if tenant == slot.owner.tenant and start <= slot.length < n < len(prompt) and before == prompt[:n]:
                positions = np.asarray(positions_of(prompt)[start:n], np.int32)
                if not self.log.restore(slot, np.asarray(before[start:], np.int32), positions, data, start):
                    break
        return slot.length

    @precondition(lambda self: self.running)
    @rule(tokens=st.lists(st.integers(0, 2), min_size=1, max_size=3))
    def everybody_writes(self, tokens: list[int]) -> None:
        """Write one token per sequence in turn, so that their cells alternate; one in mid-image goes on with it."""
        for token in tokens:
            if self._room(len(self.running)):
                for slot, expected in self.running:
                    expected.append(self._next_of(expected, token))
                    self._write(slot, expected, 1)

    def _next_of(self, tokens: list[int], token: int) -> int:
        for n, first in IMAGES.items():
            if tokens and first - n + 1 < tokens[-1] <= first:
                return tokens[-1] - 1
        return token

    @precondition(lambda self: self.running)
    @rule(which=st.integers(0, 3), rest=st.integers(0, 5))
    def cut(self, which: int, rest: int) -> None:
        slot, expected = self.running[which % len(self.running)]
        length = max(0, slot.length - rest)
        while mid_image(expected, length):
            length -= 1
        self.log.truncate(slot, length)
        del expected[length:]

    @precondition(lambda self: self.running)
    @rule(which=st.integers(0, 3), aside=st.booleans())
    def end(self, which: int, aside: bool) -> None:
        slot, _ = self.running.pop(which % len(self.running))
        (self.log.set_aside if aside else self.log.keep)(slot)

    @precondition(lambda self: bool(self.log.prefixes) or len(self.log._parking) > 0)
    @rule(which=st.integers(0, 20), size=st.integers(1, 12))
    def save_a_block(self, which: int, size: int) -> None:
        """Save the last tokens of a prefix, in the log or parked, as it would be written to a file."""
        prefixes = [(p.owner.tenant, p.tokens.tolist()) for p in self.log.prefixes.values()]
        prefixes += [(p.owner.tenant, p.tokens.tolist()) for p in self.log._parking._parked]
        tenant, tokens = prefixes[which % len(prefixes)]
        start = max(0, len(tokens) - size)
        while mid_image(tokens, start):
            start -= 1
        if self._next_of(tokens, 0):
            return  # it ends in mid-image
        most_moved = self.cache.most_saved
        if tokens and (data := self.log.saved_block(np.asarray(tokens, np.int32), start, tenant)) is not None:
            self.cache.most_saved = most_moved  # nothing moved
            assert data.view(np.int32)[1::2].tolist() == tokens[start:]
            self.files.append((tenant, tokens, start, data.copy()))

    @rule()
    def sweep(self) -> None:
        self.log._look_again = 0
        self.log.sweep()

    @rule(n=st.integers(1, 30))
    def make_room(self, n: int) -> None:
        self.log.make_room(n)

    @invariant()
    def each_slot_has_its_tokens_in_order(self) -> None:
        for slot, expected in self.running:
            assert slot.tokens.tolist() == expected
            self.seen[slot.owner.tenant].append(expected[:])
        for slot in [*self.log.running.values(), *self.log.prefixes.values()]:
            cells = self.cache.cells_of(slot.id)
            assert slot.cells.tolist() == cells
            assert [self.cache.positions[c] for c in cells] == positions_of(slot.tokens.tolist())
            assert [self.cache.tokens[c] for c in cells] == slot.tokens.tolist()

    @invariant()
    def nothing_lies_behind_the_used_cells_and_nothing_is_free_before(self) -> None:
        assert all(self.cache.owners[: self.log.used])
        assert not any(self.cache.owners[self.log.used :])

    @invariant()
    def a_move_copies_no_more_than_a_block_or_an_image_at_once(self) -> None:
        assert self.cache.most_saved <= max(BLOCK, LARGEST)


TestCellLog = CellLogMachine.TestCase
TestCellLog.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
