"""What the server has to know of a model file before an engine has loaded it. It reads the file's metadata alone."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

Value = int | float | bool | str | list[int | float | bool] | None
"""A value of the metadata. A list that holds texts is None."""

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_TEXT, _LIST = 8, 9
_MOST_BYTES = 1 << 20  # of a text or a list
_VOCABULARY = "tokenizer."


class ModelFileError(Exception):
    """A file is not what it should be; the message says what."""


def read_values(path: Path) -> dict[str, Value]:
    """Return the metadata of a GGUF file up to the vocabulary, which comes last and is long.

    Raises:
        ModelFileError: It cannot be read, or is no GGUF file.
    """
    try:
        with path.open("rb") as file:
            return dict(_values(file))
    except OSError as error:
        raise ModelFileError(f"cannot read {path}: {error.strerror}") from error
    except (struct.error, ValueError, KeyError) as error:
        raise ModelFileError(f"{path} is no GGUF file, or is damaged") from error


def _values(file: BinaryIO) -> Iterator[tuple[str, Value]]:
    magic, version, _, count = struct.unpack("<4sIQQ", file.read(24))
    if magic != b"GGUF" or version not in (2, 3):
        raise ValueError(magic)
    for _ in range(count):
        key = _text(file)
        if key.startswith(_VOCABULARY):
            return
        yield key, _value(file, _number(file, "I"))


def _value(file: BinaryIO, kind: int) -> Value:
    if kind == _TEXT:
        return _text(file)
    if kind != _LIST:
        return _number(file, _SCALARS[kind])
    kind, length = struct.unpack("<IQ", file.read(12))
    if kind == _TEXT:
        for _ in range(length):
            _text(file)
        return None
    form = f"<{_bounded(length)}{_SCALARS[kind]}"
    return list(struct.unpack(form, file.read(struct.calcsize(form))))


def _number(file: BinaryIO, form: str) -> int:
    (number,) = struct.unpack(f"<{form}", file.read(struct.calcsize(f"<{form}")))
    return number  # type: ignore[no-any-return]  # or a float, or a bool


def _text(file: BinaryIO) -> str:
    return file.read(_bounded(_number(file, "Q"))).decode()


def _bounded(length: int) -> int:
    if length > _MOST_BYTES:
        raise ValueError(length)
    return length


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
        values = read_values(path)
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
    about = _About(model)
    deep = about("n_deepstack_layers")
    return about("embedding_length") * (1 + deep) if deep else 0


def cell_bytes(model: Path) -> float:
    """Return the bytes that a cell of the KV cache takes with exact numerics; 0 if the file does not say.

    Raises:
        ModelFileError: It cannot be read, or is no GGUF file.
    """
    about = _About(model)
    n_embd, n_head = about("embedding_length"), about("attention.head_count")
    if not (n_embd and n_head):
        return 0.0
    key, value = (about(f"attention.{name}_length") or n_embd / n_head for name in ("key", "value"))
    return about("block_count") * (about("attention.head_count_kv") or n_head) * (key * 34 / 32 + value * 2)


class _About:
    """Whole numbers of a model's architecture; 0 where there is none."""

    def __init__(self, model: Path) -> None:
        self._values = read_values(model)
        self._prefix = f"{self._values.get('general.architecture')}."

    def __call__(self, name: str) -> int:
        value = self._values.get(self._prefix + name)
        return value if isinstance(value, int) else 0
