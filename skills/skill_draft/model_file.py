"""What the server has to know of a model file before an engine has loaded it. It reads the file's metadata alone."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

from skills.gguf import GgufError, GgufFile, read_gguf


class ModelFileError(Exception):
    """A file is not what it should be; the message says what."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TowerFile:
    """The file of a vision tower (mmproj)."""

    path: Path
    size_bytes: int
    width: int
    """Values in the tower for each piece of an image, which its buffers grow with."""
    row_width: int
    """Floats in a row of an encoded image."""

    @classmethod
    def read(cls, path: Path) -> TowerFile:
        """Read a file's metadata.

        Raises:
            ModelFileError: It cannot be read, or is no vision tower of Qwen3-VL's kind.
        """
        values = _read(path).values
        kind, layers = values.get("clip.projector_type"), values.get("clip.vision.is_deepstack_layers")
        width, projected = values.get("clip.vision.embedding_length"), values.get("clip.vision.projection_dim")
        if not (kind == "qwen3vl_merger" and isinstance(width, int) and isinstance(projected, int)):
            raise ModelFileError(f"{path.name} is no vision tower (mmproj) of Qwen3-VL: {kind or 'another file'}")
        deep = sum(map(bool, layers)) if isinstance(layers, list) else 0
        return cls(path=path, size_bytes=path.stat().st_size, width=width, row_width=projected * (1 + deep))


def row_width(model: Path) -> int:
    """Return how many floats a model wants in a row of an encoded image; 0 if it reads text alone.

    Raises:
        ModelFileError: It cannot be read, or is no GGUF file.
    """
    file = _read(model)
    deep = file.number("n_deepstack_layers")
    return file.number("embedding_length") * (1 + deep) if deep else 0


def cell_bytes(model: Path) -> float:
    """Return the bytes that a cell of the KV cache takes with exact numerics; 0 if the file does not say.

    Raises:
        ModelFileError: It cannot be read, or is no GGUF file.
    """
    return _read(model).cell_bytes


@functools.lru_cache(maxsize=2)  # a server's model and its tower
def _read(path: Path) -> GgufFile:
    try:
        return read_gguf(path)
    except GgufError as error:
        raise ModelFileError(str(error)) from error
