"""From a configuration to a loaded model: numerics, memory and sizes, each chosen by what is there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from skills.runtime.resources import memory_available

from .binding import Context, ContextParams, Model, ModelError, ModelParams, system_info, tensor_types
from .build import why_not_exact
from .messages import EngineConfig

MIB = 1 << 20
DEFAULT_N_CTX = 4096
MIN_N_CTX = 256
# Two slots are the cache's own: the trash and the mover.
OWN_SLOTS = 2
# Matrices whose kernels give a row the same bits in every batch (measured with `bench/same_bits.py`).
_EXACT = {"Q4_1", "Q8_0", "IQ4_NL", "Q5_K", "Q6_K"}
# Matrices that llama.cpp rewrites for this CPU on loading, into memory of the process's own.
_REPACKED = {"IQ4_NL", "Q4_0", "Q4_K"}
# Exact only if they are not rewritten, which costs speed.
_EXACT_UNPACKED = {"Q4_K", "Q5_K", "Q6_K"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A model ready to run, and what was chosen for it."""

    model: Model
    context: Context
    n_ctx: int
    n_slots: int
    parked_bytes: int
    """Memory for prefixes that are not in the cache."""
    numerics: str
    notes: tuple[str, ...]


def load(config: EngineConfig) -> Loaded:
    """Loads a model. Raises `ModelError` with what to do, before memory runs out rather than after."""
    path = Path(config.model)
    if not path.is_file():
        raise ModelError(f"no such file: {path}")
    types = tensor_types(path)
    params, exact, notes = _choose_kernels(types, config.exact, system_info())
    weights = path.stat().st_size
    available = memory_available()
    if weights > available:
        raise ModelError(
            f"{path.name} needs {weights / MIB:,.0f} MB and this process may use {available / MIB:,.0f} MB: "
            "give it more memory (mem_limit) or a smaller model"
        )
    model = Model(path, params)
    n_ctx, n_cells, n_parked = _choose_sizes(config, model, free=available - weights)
    n_slots = OWN_SLOTS + config.slots + config.prefixes
    context = Context(
        model,
        ContextParams(
            n_cells=n_cells,
            # llama.cpp reserves a row of output for each slot in its batch, and aborts if it is smaller.
            n_batch=min(max(config.n_batch, n_slots), n_cells),
            n_slots=n_slots,
            n_threads=config.threads,
            exact=exact,
        ),
    )
    numerics = "exact" if exact and config.exact else "fast"
    cell = cell_bytes(model, exact=config.exact)
    sizes = (
        f"{path.name}: {weights / MIB:,.0f} MB of {'/'.join(sorted(types))}, n_ctx {n_ctx}, {context.n_cells} cells of "
        f"{cell / 1024:.1f} KiB ({'K Q8_0, V F16' if config.exact else 'F16'}), "
        f"up to {n_parked * cell / MIB:,.0f} MB of parked prefixes, "
        f"{'mapped' if params.mmap else 'read'}, {'repacked' if params.repack else 'not repacked'}, "
        f"numerics {numerics}, {config.threads} threads, {available / MIB:,.0f} MB were free"
    )
    return Loaded(
        model=model, context=context, n_ctx=n_ctx, n_slots=n_slots, parked_bytes=int(n_parked * cell),
        numerics=numerics, notes=(sizes, *notes),
    )  # fmt: skip


def _choose_kernels(types: set[str], want_exact: bool, build: str) -> tuple[ModelParams, bool, list[str]]:
    """How to load matrices of these types so that numerics are exact, and whether they then are."""
    # What is rewritten need not stay mapped as well: that would show the model twice in the process's memory.
    usual = ModelParams(mmap=not types & _REPACKED, repack=True)
    if want_exact and (why := why_not_exact(build)):
        return usual, False, [f"numerics are fast, not exact: {why}"]
    if not want_exact or types <= _EXACT:
        return usual, want_exact, []
    if types <= _EXACT | _EXACT_UNPACKED and "IQ4_NL" not in types:
        note = "Q4_K is exact only without repacking, which is slower; SKILL_DRAFT_NUMERICS=fast repacks it"
        return ModelParams(mmap=True, repack=False), True, [note]
    inexact = "/".join(sorted(types - _EXACT))
    note = f"numerics are fast, not exact: the kernels for {inexact} give an answer other bits in another batch"
    return usual, False, [note]


def cell_bytes(model: Model, *, exact: bool) -> float:
    """Memory of a KV cell: K in Q8_0 (34 bytes for 32 values) or F16, V in F16."""
    architecture = model.meta("general.architecture")
    key, value = (
        float(model.meta(f"{architecture}.attention.{kind}_length") or model.head_size) for kind in ("key", "value")
    )
    return model.n_layer * model.n_head_kv * (key * (34 / 32 if exact else 2) + value * 2)


def _choose_sizes(config: EngineConfig, model: Model, *, free: float) -> tuple[int, int, int]:
    """The longest sequence, the cells of the cache, and how many cells' worth of prefixes may be parked.

    Raises `ModelError` if what was asked for does not fit.
    """
    # Graph, logits and buffers: activations of a batch, and one row of logits a slot.
    rows = config.slots + config.prefixes
    reserve = 64 * MIB + 4 * (config.n_batch * 8 * model.n_embd + rows * model.vocab.n_tokens)
    affordable = int(max(0.0, free - reserve) / cell_bytes(model, exact=config.exact))
    n_ctx = config.n_ctx or min(DEFAULT_N_CTX, model.n_ctx_train, max(MIN_N_CTX, affordable))
    n_cells = config.kv_cells or max(n_ctx, min(2 * n_ctx, affordable))
    if n_ctx > model.n_ctx_train:
        raise ModelError(f"SKILL_DRAFT_N_CTX {n_ctx} is more than the {model.n_ctx_train} this model was trained for")
    if n_cells < n_ctx:
        raise ModelError(f"{n_cells} cells cannot hold a context of {n_ctx} (SKILL_DRAFT_KV_CELLS, SKILL_DRAFT_N_CTX)")
    if n_cells > affordable:
        lower = f"lower SKILL_DRAFT_N_CTX to at most {affordable}, or " if affordable >= MIN_N_CTX else ""
        raise ModelError(
            f"a cache of {n_cells} cells needs {n_cells * cell_bytes(model, exact=config.exact) / MIB:,.1f} MB and "
            f"{max(0.0, free - reserve) / MIB:,.1f} MB are left beside the model: {lower}give the container more memory"
        )
    # Half as much as the cache, and never more than half of what would be left: others use this machine too.
    return n_ctx, n_cells, min(n_cells, affordable - n_cells) // 2
