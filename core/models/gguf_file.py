"""Read the metadata of a model file, with this package's errors."""

from __future__ import annotations

from pathlib import Path

from core.errors import ModelFileError
from skills import gguf
from skills.gguf import GgufFile

__all__ = ["GgufFile", "read_gguf"]


def read_gguf(path: Path) -> GgufFile:
    """Read the metadata of a file.

    Raises:
        ModelFileError: It cannot be read, is no GGUF file, is cut off, or is damaged.
    """
    try:
        return gguf.read_gguf(path)
    except gguf.GgufError as error:
        raise ModelFileError(str(error)) from error
