"""Which vision tower (mmproj) belongs to the model, and whether there is memory for it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from skills.runtime.resources import memory_size

from .catalog import CatalogEntry, catalog
from .engine.messages import Ready
from .model_file import ModelFileError, TowerFile, cell_bytes, row_width
from .vision.limits import DECODING_BYTES, MAX_TOKENS

OFF = "off"
_MIB, _GIB = 1 << 20, 1 << 30
USEFUL_CELLS = 1024
"""A model with a smaller cache is of little use, with or without images."""

# What a vision process takes, in bytes; measured with the tower of the 4B, whose width is 1,024.
_PROCESS = 45e6
_VOCABULARY = 32e6
_BUFFERS, _BUFFERS_WIDTH = 300e6, 1024  # at 1,024 image tokens, their rows included
# The server and the engine without a model; and the share of the limit that the engine leaves free.
_PROCESSES = 130e6
_SPARE_SHARE = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Tower:
    """The vision tower that a server uses, or why it uses none."""

    file: TowerFile | None = None
    why_not: str = ""
    """Completes a sentence that begins with "this replica reads no images: "."""
    short_of_memory: bool = False
    """Whether that is all that is missing, which its operator can change."""


def choose_tower(setting: str, model: Path, folder: Path) -> Tower:
    """Return the vision tower of a model.

    Args:
        setting: SKILL_DRAFT_MMPROJ: a path, `off`, or empty to find it.
        model: The model's file.
        folder: The models folder.

    Raises:
        ModelFileError: The setting names a file that is no vision tower, or not this model's.
    """
    if setting == OFF:
        return Tower(why_not="SKILL_DRAFT_MMPROJ is off")
    try:
        wanted = row_width(model)
    except ModelFileError as error:
        return Tower(why_not=str(error))  # the engine will say so too
    if not wanted:
        if setting:
            raise ModelFileError(f"SKILL_DRAFT_MMPROJ is set, and {model.name} reads text alone")
        return Tower(why_not=f"its model, {model.stem}, reads text alone; {_one_that_reads_images()} reads images")
    if setting:
        return Tower(file=_fitting(Path(setting), model, wanted))
    path, why_not = _find(model, folder)
    try:
        return Tower(file=_fitting(path, model, wanted)) if path else Tower(why_not=why_not)
    except ModelFileError as error:
        return Tower(why_not=str(error))


def _find(model: Path, folder: Path) -> tuple[Path | None, str]:
    """Return the path of a model's vision tower, or why there is none."""
    entry = next((entry for entry in catalog().values() if entry.file == model.name and entry.images), None)
    if entry:
        found = [path for place in (folder, model.parent) if (path := place / entry.images).is_file()]
        return (found[0], "") if found else (None, _how_to_get(entry))
    near = sorted(path for path in model.parent.iterdir() if "mmproj" in path.name and path.suffix == ".gguf")
    if len(near) == 1:
        return near[0], ""
    names = ", ".join(path.name for path in near)
    return None, f"choose one of {names} with SKILL_DRAFT_MMPROJ" if near else (
        f"there is no vision tower next to {model.name}: a file with mmproj in its name, or SKILL_DRAFT_MMPROJ"
    )


def _how_to_get(entry: CatalogEntry) -> str:
    return f"{entry.images} is not here: `sarai models pull {entry.name}`, on the host, brings it"


def _one_that_reads_images() -> str:
    return next(entry.name for entry in catalog().values() if entry.images)


def _fitting(path: Path, model: Path, wanted: int) -> TowerFile:
    tower = TowerFile.read(path)
    if tower.row_width != wanted:
        raise ModelFileError(
            f"{path.name} does not belong to {model.name}: its rows have {tower.row_width} values, and the model "
            f"wants {wanted}"
        )
    return tower


def largest_image_bytes(tower: TowerFile) -> int:
    """Return the bytes of the rows of the largest image."""
    return MAX_TOKENS * tower.row_width * 4


def vision_bytes(tower: TowerFile) -> int:
    """Return the memory that a vision process takes at most."""
    buffers = _BUFFERS * tower.width / _BUFFERS_WIDTH
    return int(_PROCESS + _VOCABULARY + tower.size_bytes + buffers + DECODING_BYTES)


def fitted(tower: Tower, model: Path, *, reserved: int, limit: float) -> Tower:
    """Return the tower, or why there is too little memory for it and a useful cache.

    Args:
        tower: As chosen.
        model: The model's file.
        reserved: The memory that images take, bytes.
        limit: The memory limit, bytes.

    Raises:
        ModelFileError: The model's file cannot be read.
    """
    needed = model.stat().st_size + USEFUL_CELLS * cell_bytes(model) + _PROCESSES + reserved
    return _unless_short(tower, needed / (1 - _SPARE_SHARE) - limit, limit)


def fitted_cells(tower: Tower, model: Path, ready: Ready, *, chosen: bool) -> Tower:
    """Return the same once an engine has measured it.

    Args:
        tower: The tower for which the engine has reserved memory.
        model: The model's file.
        ready: What the engine reported.
        chosen: Whether the number of cells is the engine's choice.
    """
    short = (USEFUL_CELLS - ready.sizes.n_cells) * cell_bytes(model) if chosen and tower.file else 0.0
    return _unless_short(tower, short / (1 - _SPARE_SHARE), memory_size())


def _unless_short(tower: Tower, short: float, limit: float) -> Tower:
    if short <= 0:
        return tower
    total = math.ceil((limit + short) / _GIB)
    why = f"they need {short / _MIB:,.0f} MB more memory: mem_limit, with compose SARAI_DRAFT_MEMORY={total}g"
    return Tower(why_not=why, short_of_memory=True)
