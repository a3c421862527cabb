"""From a configuration to a loaded model: choose numerics, memory and sizes by what the machine has."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, replace
from pathlib import Path

from skills.gguf import Tensor
from skills.runtime.resources import anonymous_bytes, memory_available, memory_size, reserved_bytes

from .binding import Context, ContextParams, Model, ModelError, ModelParams
from .build import has_our_kernels, system_info, why_not_exact, why_slower
from .embedding import row_width
from .gguf import tensors
from .mapped import release
from .memory import MIB, SPARE_SHARE, USEFUL_CELLS, Costs, choose, rehearse
from .messages import EngineConfig, Sizes
from .packed_copy import NoCopyError, packed_copy
from .packing import PACKED_TYPES, use_packed

# How often sizes are chosen before loading fails, when the worst step leaves too little memory.
_TRIES = 4
_MOST_SPARE = 0.4  # of the memory limit, after many kills
# Without our kernels: types for which llama.cpp's kernels give a row the same bits in every batch (measured with
# `bench/same_bits.py`), and types that it packs on loading.
_EXACT = {"Q4_1", "Q8_0", "IQ4_NL", "Q5_K", "Q6_K"}
_REPACKED = {"IQ4_NL", "Q4_0", "Q4_K"}
# Exact only without repacking, which costs speed.
_EXACT_UNPACKED = {"Q4_K", "Q5_K", "Q6_K"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A model ready to run, and what was chosen for it."""

    model: Model
    context: Context
    sizes: Sizes
    numerics: str
    notes: tuple[str, ...]
    row_width: int
    """Floats in a row of an encoded image; 0 if the model reads text alone."""
    max_image: int
    """The most tokens of an image; 0 if none are read."""


def load(config: EngineConfig) -> Loaded:
    """Load a model and choose its sizes.

    Raises:
        ModelError: The file cannot be used, or memory is too small: found out before memory runs out, not after. The
            message includes the remedy.
    """
    path = Path(config.model)
    if not path.is_file():
        raise ModelError(f"no such file: {path}")
    held = tensors(path)
    # Of two dimensions or more: vectors are always F32.
    types = {tensor.type for tensor in held if len(tensor.shape) > 1}
    build, ours = system_info(), has_our_kernels()
    params, exact, notes = _choose_kernels(types, config.exact, build, ours=ours)
    if slower := why_slower(build, ours=ours):
        notes.append(slower)
    weights, available = path.stat().st_size, memory_available()
    processes = anonymous_bytes([os.getpid(), os.getppid()])
    if weights > available:
        raise ModelError(
            f"{path.name} needs {weights / MIB:,.0f} MB and this process may use {available / MIB:,.0f} MB: "
            "give it more memory (mem_limit) or a smaller model"
        )
    model, mapped, how = _load_model(path, held, params, packed_dir=config.packed_dir, ours=ours, notes=notes)
    width = row_width(model, held)
    costs = Costs.of(model, exact=exact, row_width=width if config.rows_path else 0)
    context, sizes, free = _make_context(config, model, costs, mapped=mapped, exact=exact)
    numerics = "exact" if exact and config.exact else "fast"
    about = (
        f"{path.name}: {'/'.join(sorted(types))}, {how}, numerics {numerics} "
        f"(cache {'K Q8_0, V F16' if exact else 'F16'}), {config.threads} threads, n_ctx {sizes.n_ctx}, "
        f"{sizes.slots} slots, batch {sizes.n_batch}"
    )
    used = _uses_of_memory(
        sizes,
        costs.cell,
        weights=weights,
        mapped=mapped,
        processes=processes,
        reserved=config.reserved_bytes,
        free=free,
    )
    max_image = min(config.max_image_tokens, sizes.block_cells, sizes.n_ctx) if costs.images else 0
    too_little = _too_few_cells(model, sizes, costs.cell, config=config) + _small_images(max_image, config=config)
    return Loaded(
        model=model, context=context, sizes=sizes, numerics=numerics, notes=(about, used, *too_little, *notes),
        row_width=width, max_image=max_image,
    )  # fmt: skip


def _load_model(
    path: Path, held: tuple[Tensor, ...], params: ModelParams, *, packed_dir: str, ours: bool, notes: list[str]
) -> tuple[Model, float, str]:
    """Return the model, the bytes of its file that steps read where it is mapped, and how it was loaded."""
    packs = ours and params.repack
    if packed_dir and packs:
        try:
            params = replace(params, packed=packed_copy(path, held, Path(packed_dir)))
        except NoCopyError as error:
            notes.append(f"no packed copy of the model: {error}")
    model = Model(path, params)
    size = path.stat().st_size
    if params.packed:
        use_packed(params.packed)
        return model, size, "packed copy mapped"
    if packs:
        # llama.cpp keeps the whole file mapped: tools would show the model twice, the file and the packed matrices.
        release(path)
        packed = sum(tensor.size_bytes for tensor in held if tensor.type in PACKED_TYPES)
        return model, size - packed, "mapped, repacked"
    how = f"{'mapped' if params.mmap else 'read'}, {'repacked' if params.repack else 'not repacked'}"
    return model, size if params.mmap else 0.0, how


def _uses_of_memory(
    sizes: Sizes, cell_bytes: float, *, weights: float, mapped: float, processes: float, reserved: float, free: float
) -> str:
    """Return a note for the operator: what takes how much memory."""
    cells = sizes.n_cells * cell_bytes
    parts = {
        "weights": weights,
        f"{sizes.n_cells:,} cells": cells,
        "buffers": max(0.0, anonymous_bytes([os.getpid(), os.getppid()]) + mapped - processes - weights - cells),
        "processes": processes,
        "at most for parked prefixes": sizes.parked_bytes,
        **({"for images": reserved} if reserved else {}),
        "free": max(0.0, free),
    }
    return "memory: " + ", ".join(f"{size / MIB:,.0f} MB {what}" for what, size in parts.items())


def _make_context(
    config: EngineConfig, model: Model, costs: Costs, *, mapped: float, exact: bool
) -> tuple[Context, Sizes, float]:
    """Return the context, its sizes, and the bytes that stay free when all of it is in use."""
    spares = [min(_MOST_SPARE, SPARE_SHARE * 2**kills) for kills in range(config.memory_kills, -1, -1)]
    for spare in spares[:-1]:
        # After a kill, more memory stays free, as far as the settings and the model allow.
        with contextlib.suppress(ModelError):
            return _fit(config, model, costs, mapped=mapped, exact=exact, spare=spare * memory_size())
    return _fit(config, model, costs, mapped=mapped, exact=exact, spare=spares[-1] * memory_size())


def _fit(
    config: EngineConfig, model: Model, costs: Costs, *, mapped: float, exact: bool, spare: float
) -> tuple[Context, Sizes, float]:
    """Return the same with at least `spare` bytes free; raise `ModelError` if that is impossible."""
    reserved = mapped + spare + config.reserved_bytes
    room = memory_available() - reserved
    left = -room
    for _ in range(_TRIES):
        sizes = config.sizes or choose(config, costs, n_ctx_train=model.n_ctx_train, free=room)
        context = _context(config, model, sizes, exact=exact)
        sizes = replace(sizes, n_cells=context.n_cells)
        taken = reserved + sizes.block_cells * costs.cell + costs.vocabulary + costs.images
        if config.sizes:
            return context, sizes, memory_available() - taken - sizes.parked_bytes + spare
        # Reserved, untouched memory is an upper bound of what will be used. Measure by a step only if that is too much.
        untouched = max(0, reserved_bytes(os.getpid()) - anonymous_bytes([os.getpid()]))
        left = memory_available() - taken - untouched - sizes.n_outputs * costs.output
        if left < 0:
            rehearse(context, sizes)
            left = memory_available() - taken
        if left >= 0:
            # At most half the size of the cache and half of what is left: other programs use this machine too.
            parked = 0.0 if config.memory_kills else min(left, context.n_cells * costs.cell) / 2
            return context, replace(sizes, parked_bytes=int(parked)), left + spare - parked
        context.close()
        room += left - MIB
    raise ModelError(
        f"the model's buffers need {-left / MIB:,.0f} MB more than there are: "
        "give the container more memory (mem_limit)"
    )


def _context(config: EngineConfig, model: Model, sizes: Sizes, *, exact: bool) -> Context:
    params = ContextParams(
        n_cells=sizes.n_cells, n_batch=sizes.n_batch, n_slots=sizes.n_slots, n_threads=config.threads, exact=exact
    )
    return Context(model, params)


def _small_images(max_image: int, *, config: EngineConfig) -> list[str]:
    """Return a note for the operator if memory leaves large images no room; else nothing."""
    if not 0 < max_image < config.max_image_tokens:
        return []
    return [f"memory leaves room for images of at most {max_image} tokens: more of it (mem_limit) allows larger ones"]


def _too_few_cells(model: Model, sizes: Sizes, cell_bytes: float, *, config: EngineConfig) -> list[str]:
    """Return a note for the operator if memory leaves four callers no useful context; else nothing."""
    wanted = min(USEFUL_CELLS, 2 * model.n_ctx_train)
    if sizes.n_cells >= wanted or config.n_ctx or config.kv_cells:
        return []
    more = (wanted - sizes.n_cells) * cell_bytes / MIB / (1 - SPARE_SHARE)
    note = (
        f"memory leaves {sizes.n_cells:,} cells, which hold {max(1, sizes.n_cells // 1024)} callers with 1,024 tokens "
        f"each: {more:,.0f} MB more (mem_limit), or a smaller model, would hold four"
    )
    return [note]


def _choose_kernels(
    types: set[str], want_exact: bool, build: str, *, ours: bool
) -> tuple[ModelParams, bool, list[str]]:
    """Return how to load matrices of these types, whether numerics are then exact, and notes for the operator."""
    usual = ModelParams(mmap=ours or not types & _REPACKED, repack=True)
    exact_types = _EXACT | PACKED_TYPES if ours else _EXACT
    if want_exact and (why := why_not_exact(build)):
        return usual, False, [f"numerics are fast, not exact: {why}"]
    if not want_exact or types <= exact_types:
        return usual, want_exact, []
    if types <= exact_types | _EXACT_UNPACKED and "IQ4_NL" not in types:
        note = "Q4_K is exact only without repacking, which is slower; SKILL_DRAFT_NUMERICS=fast repacks it"
        return ModelParams(mmap=True, repack=False), True, [note]
    inexact = "/".join(sorted(types - exact_types))
    note = f"numerics are fast, not exact: the kernels for {inexact} give an answer other bits in another batch"
    return usual, False, [note]
