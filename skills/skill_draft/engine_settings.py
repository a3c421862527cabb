"""The configuration of an engine, and what identifies it, by the settings of its server."""

from __future__ import annotations

from pathlib import Path

from skills.runtime.resources import usable_cpus

from .engine.messages import EngineConfig
from .identity import FileHashes, Identity
from .images import Images
from .settings import Settings
from .tower_choice import Tower


def engine_config(settings: Settings, model: Path, images: Images | None) -> EngineConfig:
    """Return what an engine of this model is started with, and what for `images` if it reads any."""
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
        packed_dir=settings.packed_dir,
        gap_ms=settings.gap_ms,
        piece_ms=settings.piece_ms,
        exact=settings.numerics == "exact",
        threads=settings.threads or usable_cpus(),
        rows_path=images.rows_path if images else "",
        reserved_bytes=images.reserved_bytes if images else 0,
    )


def identity_of(settings: Settings, model: Path, tower: Tower) -> Identity:
    """Return the identity of a server with this model and this vision tower."""
    # With the prefixes, as a container can write to no other place that lasts.
    hashes = FileHashes(Path(settings.prefix_dir) / "hashes.json") if settings.prefix_dir else None
    file = tower.file.path if tower.file else None
    return Identity(model, file, exact=settings.numerics == "exact", hashes=hashes)
