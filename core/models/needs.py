"""Estimate the memory that a model needs, and the speed that memory bandwidth allows."""

from __future__ import annotations

import bisect
from dataclasses import dataclass

from core.models.catalog import Model
from core.models.gguf_file import GgufFile

# The same figures as in the engine (`skills/skill_draft/engine/memory.py`); a test compares them.
_WORD_BYTES = 260
"""A token of the vocabulary, as constraints need it."""
_OUTPUT_BYTES = 4
_MIB = 1 << 20
_N_OUTPUTS, _MIN_OUTPUTS = 50, 20
"""Rows of logits that the engine uses: for its slots, prefixes and two of its own; and the fewest that it makes."""
_N_BATCH, _MIN_BATCH = 512, 64
_PROCESSES_BYTES = 105e6
"""The server's and the engine's processes without a model, and what the largest step takes beyond the other figures."""
_SPARE_SHARE = 0.05
"""Share of the limit that stays free."""
_SHARE = 1 / 32
"""A batch, the rows of logits and the copies of a move each take at most this share of what the weights leave free."""
_REST_BYTES, _MOST_MOVED_BYTES = 8 << 20, 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """The memory that it takes to serve a model, bytes."""

    weights: int
    cell: float
    """One cell of the KV cache: a token of a running request or of a kept prefix."""
    vocabulary: float
    row: float
    """Activations of one row of a step."""
    output: float
    """A row of logits."""
    read_per_token: int
    """Weights that are read for each token of a single answer."""

    def with_cells(self, n_cells: int) -> float:
        """Return the memory with this many cells where there is plenty, processes included."""
        buffers = _N_BATCH * self.row + 2 * _N_OUTPUTS * self.output
        return self.weights + n_cells * self.cell + self.vocabulary + buffers + _PROCESSES_BYTES

    def cells_within(self, limit_bytes: float) -> int:
        """Return how many cells fit into a memory limit; negative if none do.

        A share stays free, and where there is little memory, the engine makes batch and buffers smaller too.
        """
        free = limit_bytes * (1 - _SPARE_SHARE) - self.weights - self.vocabulary - _PROCESSES_BYTES
        rows = min(_N_BATCH, max(_MIN_BATCH, free * _SHARE // self.row))
        outputs = min(rows, max(_MIN_OUTPUTS, free * _SHARE // self.output)) * self.output
        rest = free - _REST_BYTES - outputs - max(rows * self.row, outputs)
        return int((rest - min(_MOST_MOVED_BYTES, max(0.0, rest * _SHARE))) / self.cell)

    def limit_for(self, n_cells: int) -> int:
        """Return the least memory limit, in MiB, within which this many cells fit."""
        most = int(2 * self.with_cells(n_cells) / _MIB) + 1024
        return bisect.bisect_left(range(most), n_cells, key=lambda limit: self.cells_within(limit * _MIB))

    def ceiling(self, bytes_per_s: float, n_cells: int = 0) -> float:
        """Return the maximum tokens per second of a single answer with this many cells before it.

        Each token reads every weight and every earlier cell once from memory. Speculative tokens and other answers of
        the same step come on top.
        """
        return bytes_per_s / (self.read_per_token + n_cells * self.cell)


def about_bytes(model: Model, n_cells: int) -> float:
    """Return the memory that a model takes with this many cells, as far as the catalogue knows it."""
    return model.text.nominal_bytes + n_cells * model.cell_bytes + _PROCESSES_BYTES


def needs_of(file: GgufFile) -> Needs | None:
    """Return what a file needs; None if it is not a text model with a KV cache of this form."""
    if not file.cell_bytes:
        return None
    n_embd = file.number("embedding_length")
    n_vocab = file.lengths.get("tokenizer.ggml.tokens", 0)
    n_ff = file.number("feed_forward_length") or 4 * n_embd
    weights = sum(tensor.size_bytes for tensor in file.tensors)
    sizes = {tensor.name: tensor.size_bytes for tensor in file.tensors}
    # Of the embeddings one row is read, unless they are the output matrix as well.
    unread = sizes.get("token_embd.weight", 0) if "output.weight" in sizes else 0
    return Needs(
        weights=weights, cell=file.cell_bytes, vocabulary=_WORD_BYTES * n_vocab, row=4.0 * (3 * n_ff + 6 * n_embd),
        output=_OUTPUT_BYTES * n_vocab, read_per_token=weights - unread,
    )  # fmt: skip
