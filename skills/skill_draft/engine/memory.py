"""Choose the sizes of cache, batch and buffers to fit the memory.

Sizes are first estimated (`choose`). If memory is tight, `loading.py` then runs the worst step (`rehearse`), measures,
and chooses again if less than the spare share is left.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .binding import Context, Model, ModelError
from .messages import EngineConfig, Sizes
from .scheduler import EMBEDDED_ROWS

MIB = 1 << 20
DEFAULT_N_CTX = 4096
MIN_N_CTX = 256
MIN_BATCH = 64
# Slots that the cache uses itself: the trash and the mover.
OWN_SLOTS = 2
_MIN_PREFIXES = 2
# Share of the memory limit that stays free in the worst step. It doubles with each engine that is killed for memory.
SPARE_SHARE = 0.05
# What is not counted separately: thread stacks, Python's objects for requests, fragmentation.
_REST_BYTES = 8 * MIB
# A batch, the rows of logits and the copies of a move each take at most this share of what the weights leave free.
_SHARE = 1 / 32
# Running requests are worth a larger share than prefixes; each needs a row of logits as well.
_SLOTS_SHARE = 1 / 8
# The copies of a move if it moves an image.
_IMAGE_SHARE = 1 / 4
_MAX_BLOCK_BYTES = 64 * MIB
# llama.cpp rounds the number of cells up to a multiple of this.
_CELLS_STEP = 256
# A smaller cache cannot hold four callers with a usual context; the log then notes it.
USEFUL_CELLS = 4 * 1024
_REHEARSAL_ROWS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """Bytes that a model's buffers take."""

    cell: float
    """One KV cell: K in Q8_0 (34 bytes for 32 values) or F16, V in F16."""
    row: float
    """Activations of one row of a batch."""
    output: float
    """One row of logits."""
    vocabulary: float = 0.0
    """llguidance's copy of the vocabulary, held from the first constraint on."""
    images: float = 0.0
    """The input of a step with images."""

    @classmethod
    def of(cls, model: Model, *, exact: bool, row_width: int = 0) -> Costs:
        """Return the costs of a model's buffers; `row_width` is that of images, 0 if none are read."""
        architecture = model.meta("general.architecture")
        key, value, n_ff = (
            float(model.meta(f"{architecture}.{name}") or default)
            for name, default in (
                ("attention.key_length", model.head_size),
                ("attention.value_length", model.head_size),
                ("feed_forward_length", 4 * model.n_embd),
            )
        )
        return cls(
            cell=model.n_layer * model.n_head_kv * (key * (34 / 32 if exact else 2) + value * 2),
            # Measured on a 4B: 172 KB a row; this estimates 178 KB.
            row=4.0 * (3 * n_ff + 6 * model.n_embd),
            output=4.0 * model.vocab.n_tokens,
            # Measured: 39 MB for the 151,936 tokens of the 4B.
            vocabulary=260.0 * model.vocab.n_tokens,
            # Ours, and llama.cpp copies it twice.
            images=3 * 4.0 * EMBEDDED_ROWS * row_width,
        )


def choose(config: EngineConfig, costs: Costs, *, n_ctx_train: int, free: float) -> Sizes:
    """Fit cache, batch and slots into `free` bytes, what the weights and the spare memory leave.

    Raises:
        ModelError: The configured sizes do not fit, or no useful ones do; the message includes the remedy.
    """
    free -= costs.vocabulary + costs.images
    share = free * _SHARE
    slots = int(min(config.slots, max(1, free * _SLOTS_SHARE / costs.output)))
    least, most = OWN_SLOTS + slots + min(config.prefixes, _MIN_PREFIXES), OWN_SLOTS + slots + config.prefixes
    n_slots = int(min(most, max(least, share / costs.output)))
    n_batch = int(min(max(config.n_batch >> config.memory_kills, MIN_BATCH), max(MIN_BATCH, share / costs.row)))
    # llama.cpp keeps a row of output for each slot, and aborts if the batch is smaller.
    n_batch = max(min(n_batch, config.n_batch), n_slots)
    n_outputs = max(n_slots, int(min(n_batch, share / costs.output)))
    outputs = n_outputs * costs.output
    # Logits reuse the activations' memory in the graph and are copied out of it.
    rest = free - _REST_BYTES - outputs - max(n_batch * costs.row, outputs)
    block = max(0.0, min(_MAX_BLOCK_BYTES, rest * _SHARE))
    if costs.images:  # an image is moved as a whole
        block = max(block, min(config.max_image_tokens * costs.cell, rest * _IMAGE_SHARE))
    affordable = int(max(0.0, rest - block) / costs.cell)
    n_ctx = config.n_ctx or min(DEFAULT_N_CTX, n_ctx_train, max(MIN_N_CTX, affordable // _CELLS_STEP * _CELLS_STEP))
    n_cells = config.kv_cells or max(n_ctx, min(2 * n_ctx, affordable // _CELLS_STEP * _CELLS_STEP))
    if n_ctx > n_ctx_train:
        raise ModelError(f"SKILL_DRAFT_N_CTX {n_ctx} is more than the {n_ctx_train} this model was trained for")
    if n_cells < n_ctx:
        raise ModelError(f"{n_cells} cells cannot hold a context of {n_ctx} (SKILL_DRAFT_KV_CELLS, SKILL_DRAFT_N_CTX)")
    if n_cells > affordable:
        lower = f"lower SKILL_DRAFT_N_CTX to at most {affordable}, or " if affordable >= MIN_N_CTX else ""
        raise ModelError(
            f"a cache of {n_cells} cells needs {n_cells * costs.cell / MIB:,.1f} MB and "
            f"{max(0.0, rest - block) / MIB:,.1f} MB are left after the model: {lower}give the container more memory "
            "(mem_limit)"
        )
    return Sizes(
        n_ctx=n_ctx, n_cells=n_cells, n_batch=min(n_batch, n_cells), slots=slots, n_slots=n_slots, n_outputs=n_outputs,
        block_cells=max(MIN_BATCH, int(block / costs.cell)),
    )  # fmt: skip


def rehearse(context: Context, sizes: Sizes) -> None:
    """Run the worst step: full cache, full batch, a row of output for each slot.

    The pages it touches stay with the process, so the memory that is free afterwards is free in any step.
    """
    trash, mover, first = 0, 1, OWN_SLOTS
    rows = min(_REHEARSAL_ROWS, sizes.n_batch)
    _step(context, rows, [first], outputs=1)
    saved = np.empty(context.saved_size(first), np.uint8)
    context.save_into(first, saved)
    used = rows
    while used + rows + sizes.n_batch <= context.n_cells:
        context.restore(mover, saved)
        context.copy_cells(mover, trash)
        context.release_cells(mover)
        used += rows
    context.copy_cells(first, trash)
    context.release_cells(first)
    n = min(sizes.n_batch, context.n_cells - used)
    running = range(first, first + max(1, min(sizes.n_slots - OWN_SLOTS, n)))
    _step(context, n, list(running), outputs=min(n, sizes.n_outputs))
    context.clear()


def _step(context: Context, n: int, slots: list[int], *, outputs: int) -> None:
    """Run a step of `n` rows, divided among slots that have no cells yet."""
    context.tokens[:n] = 0
    context.seq_ids[:n] = np.sort(np.resize(slots, n))
    starts = np.searchsorted(context.seq_ids[:n], context.seq_ids[:n])
    context.positions[:n] = np.arange(n) - starts
    context.wants_logits[:n] = 0
    context.wants_logits[n - outputs : n] = 1
    context.decode(n)
