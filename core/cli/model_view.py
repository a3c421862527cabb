"""The output of `sarai models show`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from core.cli.common import Settings, print_json

if TYPE_CHECKING:
    from core.models.catalog import Model
    from core.models.gguf_file import GgufFile
    from core.models.needs import Needs

_MIB = 1 << 20


def show_model(model: Model, files: list[dict[str, Any]], *, cells: int) -> None:
    """Print the catalogue's entry; with `cells`, also what it knows of a file that is not here yet."""
    from core.models.needs import about_bytes

    sampling = ", ".join(f"{name} {value:g}" for name, value in model.sampling.items())
    _print_pairs(
        {
            "model": f"{model.name}: {model.summary}",
            "license": model.license,
            "template": model.template,
            "sampling": f"{sampling} (recommended by its publisher)" if sampling else "",
            "numerics": model.numerics,
            "context": f"{model.context:,} tokens" if cells else "",
            "memory": _about(about_bytes(model, cells), cells, model.cell_bytes) if cells else "",
        }
        | {f"file {number}": _file(file) for number, file in enumerate(files, 1)}
    )


def _file(file: dict[str, Any]) -> str:
    source = file["package"] or f"{file['repository']}/{file['source']} at {file['commit'][:12]}"
    return f"{file['path'] or file['file']} ({file['state']}; {source}; SHA-256 {file['sha256'] or 'not known'})"


def show_file(file: GgufFile, settings: Settings, *, cells: int, limit_bytes: int, measure: bool) -> None:
    """Print the metadata of a file, the memory that it needs, and its maximum speed."""
    from core.models.needs import needs_of

    needs, context = needs_of(file), file.about("context_length")
    n_vocab = file.lengths.get("tokenizer.ggml.tokens", 0)
    bandwidth = _bandwidth() if measure and needs else 0.0
    if settings.json:
        print_json(_as_dict(file, needs, cells=cells, limit_bytes=limit_bytes, bandwidth=bandwidth))
        return
    types = ", ".join(f"{name} {size / _MIB:,.0f} MiB" for name, size in file.bytes_of_types.items())
    pairs = {
        "path": str(file.path),
        "size": f"{file.size_bytes / _MIB:,.0f} MiB in {len(file.tensors):,} tensors",
        "architecture": file.architecture,
        "types": types,
        "context": f"{context:,} tokens" if isinstance(context, int) else "",
        "vocabulary": f"{n_vocab:,} tokens" if n_vocab else "",
        "chat template": _template(file) if n_vocab else "",
    }
    if needs is None:
        pairs["memory"] = "unknown for this kind of file"
    else:
        pairs |= _memory(needs, cells, limit_bytes) | _speed(needs, cells, bandwidth)
    _print_pairs(pairs)


def _memory(needs: Needs, cells: int, limit_bytes: int) -> dict[str, str]:
    needed, fitting = needs.with_cells(cells), needs.cells_within(limit_bytes)
    limit = f"{limit_bytes / _MIB:,.0f} MiB"
    if fitting < cells:
        more = needs.limit_for(cells) - limit_bytes // _MIB
        verdict = f"does not fit into {limit}: {more:,} MiB more are needed" + (
            f", or at most {fitting:,} cells" if fitting > 0 else ""
        )
    else:
        verdict = f"fits into {limit}, which would hold {fitting:,} cells"
    return {
        "memory": _about(needed, cells, needs.cell),
        "": verdict,
    }


def _about(needed: float, cells: int, cell_bytes: float) -> str:
    return f"about {needed / _MIB:,.0f} MiB with {cells:,} cells of {cell_bytes / 1024:,.1f} KiB"


def _speed(needs: Needs, cells: int, bandwidth: float) -> dict[str, str]:
    if not bandwidth:
        return {}
    return {
        "speed": f"at most {needs.ceiling(bandwidth):,.1f} tok/s for one answer, "
        f"{needs.ceiling(bandwidth, cells):,.1f} after {cells:,} tokens, by {bandwidth / 1e9:,.1f} GB/s"
    }


def _bandwidth() -> float:
    from core.models.bandwidth import measure_bandwidth

    return measure_bandwidth(len(os.sched_getaffinity(0)))


def _template(file: GgufFile) -> str:
    template = file.values.get("tokenizer.chat_template")
    if not isinstance(template, str):
        return "none in the file"
    return f"in the file, {len(template):,} characters" + (", ChatML" if "<|im_start|>" in template else "")


def _as_dict(file: GgufFile, needs: Needs | None, *, cells: int, limit_bytes: int, bandwidth: float) -> dict[str, Any]:
    """Return the same as one object."""
    about: dict[str, Any] = {
        "path": str(file.path), "size_bytes": file.size_bytes, "architecture": file.architecture,
        "bytes_of_types": file.bytes_of_types, "context": file.about("context_length"),
        "vocabulary": file.lengths.get("tokenizer.ggml.tokens", 0),
        "chat_template": file.values.get("tokenizer.chat_template"),
    }  # fmt: skip
    if needs is not None:
        about |= {
            "cells": cells, "cell_bytes": needs.cell, "memory_bytes": round(needs.with_cells(cells)),
            "limit_bytes": limit_bytes, "cells_within_limit": max(0, needs.cells_within(limit_bytes)),
            "fits": needs.cells_within(limit_bytes) >= cells,
        }  # fmt: skip
    if needs is not None and bandwidth:
        about |= {
            "bandwidth_bytes_per_s": round(bandwidth),
            "ceiling_tokens_per_second": round(needs.ceiling(bandwidth), 1),
        }
    return about


def _print_pairs(pairs: dict[str, str]) -> None:
    from core.cli.streams import harmless

    width = max(map(len, pairs))
    for name, text in pairs.items():
        if text:
            print(harmless(f"{name:<{width}}  {' '.join(text.split())}"))
