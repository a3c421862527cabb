"""The configuration of an engine by the settings of its server."""

from __future__ import annotations

from pathlib import Path

from skills.runtime.resources import usable_cpus

from .engine.messages import EngineConfig
from .settings import Settings


def engine_config(settings: Settings, model: Path) -> EngineConfig:
    """Return what an engine of this model is started with."""
    return EngineConfig(
        model=str(model),
        n_ctx=settings.n_ctx,
        kv_cells=settings.kv_cells,
        n_batch=settings.n_batch,
        slots=settings.slots,
        queue=settings.queue,
        prefixes=settings.prefixes,
        prefix_dir=settings.prefix_dir,
        prefix_bytes=int(settings.prefix_mb * (1 << 20)),
        gap_ms=settings.gap_ms,
        piece_ms=settings.piece_ms,
        exact=settings.numerics == "exact",
        threads=settings.threads or usable_cpus(),
    )
