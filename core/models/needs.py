"""Estimate the memory that a model needs, and the speed that memory bandwidth allows."""

from __future__ import annotations

from dataclasses import dataclass

from core.models.gguf_file import GgufFile

# The same figures as in the engine (`skills/skill_draft/engine/memory.py`); a test compares them.
_WORD_BYTES = 260
"""A token of the vocabulary, as constraints need it."""
_OUTPUT_BYTES = 4
_N_OUTPUTS = 50
"""Rows of logits that the engine keeps where memory is plentiful: its slots, prefixes and two of its own."""
_STEP_ROWS = 512
"""Rows of the largest step."""
_PROCESSES_BYTES = 130e6
"""The server's and the engine's processes without a model, measured with the embedded one."""
_SPARE_SHARE = 0.05
"""Share of the limit that stays free."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """The memory that it takes to serve a model, bytes."""

    weights: int
    cell: float
    """One cell of the KV cache: a token of a running request or of a kept prefix."""
    vocabulary: float
    buffers: float
    """Activations and rows of logits of the largest step."""
    read_per_token: int
    """Weights that are read for each token of a single answer."""

    def with_cells(self, n_cells: int) -> float:
        """Return the memory with this many cells, processes included."""
        return self.weights + n_cells * self.cell + self.vocabulary + self.buffers + _PROCESSES_BYTES

    def cells_within(self, limit_bytes: float) -> int:
        """Return how many cells fit into a memory limit, with the spare share free; negative if none do."""
        return int((limit_bytes * (1 - _SPARE_SHARE) - self.with_cells(0)) / self.cell) if self.cell else 0

    def ceiling(self, bytes_per_s: float, n_cells: int = 0) -> float:
        """Return the maximum tokens per second of a single answer with this many cells before it.

        Each token reads every weight and every earlier cell once from memory. Speculative tokens and other answers of
        the same step come on top.
        """
        return bytes_per_s / (self.read_per_token + n_cells * self.cell)


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
    rows = _STEP_ROWS * 4.0 * (3 * n_ff + 6 * n_embd)
    outputs = _N_OUTPUTS * _OUTPUT_BYTES * n_vocab
    return Needs(
        weights=weights, cell=file.cell_bytes, vocabulary=_WORD_BYTES * n_vocab, buffers=rows + 2 * outputs,
        read_per_token=weights - unread,
    )  # fmt: skip
