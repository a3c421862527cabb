"""A sequence's place in the KV cache, and the operations on that cache that the log needs."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np

from .tokens import Bytes, Ints


class Owner(NamedTuple):
    """Whose tokens a slot holds."""

    tenant: str = ""
    """Only requests of this tenant share them."""
    request: int = 0
    """The id of the request that wrote them."""
    keep: bool = True
    """Whether they may leave the memory of this engine."""


class CellMemory(Protocol):
    """The operations on a KV cache that the log needs. It fills the lowest free cells first; see `binding.Context`."""

    n_cells: int

    def copy_cells(self, source: int, target: int, start: int = -1, end: int = -1) -> None:
        """Share a slot's cells at positions [start, end) with another slot."""

    def release_cells(self, slot: int, start: int = -1, end: int = -1) -> None:
        """Free a slot's cells at positions [start, end), except shared ones."""

    def saved_size(self, slot: int) -> int:
        """Return the bytes of a slot's cells when saved."""

    def save_into(self, slot: int, room: Bytes) -> None:
        """Copy a slot's cells into `saved_size` bytes."""

    def save(self, slot: int) -> Bytes:
        """Return a copy of a slot's cells, valid until the next `save`."""

    def restore(self, slot: int, data: Bytes) -> None:
        """Fill an empty slot with saved cells."""


class Slot:
    """A sequence's place in the cache: its tokens with their positions and cells.

    Positions are those that llama.cpp goes by. They ascend, but all tokens of an image have the same one.
    """

    __slots__ = ("_cells", "_positions", "_tokens", "forked_at", "id", "last_used", "length", "owner")

    def __init__(self, id_: int, owner: Owner) -> None:
        self.id, self.owner = id_, owner
        self.length = 0
        self.forked_at = 0
        """How many of its first tokens another request had too, which then went on differently."""
        self.last_used = 0
        self._tokens, self._positions, self._cells = (np.empty(256, np.int32) for _ in range(3))

    @property
    def tokens(self) -> Ints:
        """The tokens whose cells are filled, shape (length,)."""
        return self._tokens[: self.length]

    @property
    def positions(self) -> Ints:
        """Their positions."""
        return self._positions[: self.length]

    @property
    def cells(self) -> Ints:
        """Their cells, ascending."""
        return self._cells[: self.length]

    def position(self, index: int) -> int:
        """Return the position of a token, for llama.cpp: -1, which stands for no bound, behind the last one."""
        return int(self._positions[index]) if index < self.length else -1

    def append(self, tokens: Ints, positions: Ints, cells: Ints | range) -> None:
        """Append tokens whose cells are filled."""
        end = self.length + len(tokens)
        if end > len(self._tokens):
            room = max(end, 2 * len(self._tokens))
            self._tokens, self._positions, self._cells = (
                np.resize(array, room) for array in (self._tokens, self._positions, self._cells)
            )
        self._tokens[self.length : end], self._positions[self.length : end] = tokens, positions
        self._cells[self.length : end] = cells
        self.length = end
