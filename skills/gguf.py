"""Read the metadata of a GGUF file: the model's description, and its tensors by type and size. No weights are read.

For programs and skills alike, so it imports neither. The package `gguf` is not used: it needs numpy, takes seconds for
a large vocabulary, and trusts the file. Here nothing is read beyond a fixed number of bytes, so a truncated, damaged or
malicious file is an error, in little time and memory. `tests/unit/core/test_gguf_file.py` compares both.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

Value = str | int | float | bool | list[int | float | bool] | None
"""A metadata value. Of long lists and lists of strings only the length is kept."""

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_TEXT, _LIST = 8, 9
# Name, values in a block, bytes of a block: ggml's `type_traits`.
_TYPES = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 40), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8), 28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17), 40: ("NVFP4", 64, 36), 41: ("Q1_0", 128, 18),
}  # fmt: skip
_VERSIONS = (2, 3)
_K_BYTES, _V_BYTES = 34 / 32, 2
_MAX_HEAD_BYTES = 32 << 20
_MAX_LIST = 1024
_MAX_DIMENSIONS = 4
_MAX_SIDE = 1 << 40


class GgufError(Exception):
    """A file cannot be read, is no GGUF file, is cut off, or is damaged; the message says which."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor of a file."""

    name: str
    type: str
    """As ggml names it: `F32`, `IQ4_NL`."""
    type_number: int
    """As ggml numbers it."""
    shape: tuple[int, ...]
    size_bytes: int
    offset: int
    """Where its bytes begin in the file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufFile:
    """The metadata of a GGUF file."""

    path: Path
    size_bytes: int
    values: Mapping[str, Value]
    lengths: Mapping[str, int]
    """Lengths of the lists."""
    tensors: tuple[Tensor, ...]

    @property
    def architecture(self) -> str:
        """Its architecture: `llama`, `qwen3vl`; `clip` for a file that reads images."""
        return str(self.values.get("general.architecture", ""))

    def about(self, key: str) -> Value:
        """Return a value of its architecture: `about("context_length")`."""
        return self.values.get(f"{self.architecture}.{key}")

    def number(self, key: str) -> int:
        """Return a whole number of its architecture; 0 if there is none."""
        value = self.about(key)
        return value if isinstance(value, int) else 0

    @property
    def cell_bytes(self) -> float:
        """Bytes of a cell of the KV cache with exact numerics, K in Q8_0 and V in F16; 0 if the file does not say."""
        n_embd, n_head, n_layer = map(self.number, ("embedding_length", "attention.head_count", "block_count"))
        if not (n_embd and n_head and n_layer):
            return 0.0
        key, value = (self.number(f"attention.{part}_length") or n_embd / n_head for part in ("key", "value"))
        heads = self.about("attention.head_count_kv")
        n_heads = sum(heads) if isinstance(heads, list) else n_layer * (heads if isinstance(heads, int) else n_head)
        return n_heads * (key * _K_BYTES + value * _V_BYTES)

    @property
    def bytes_of_types(self) -> dict[str, int]:
        """Bytes of its tensors by type, the largest first."""
        sums: dict[str, int] = {}
        for tensor in self.tensors:
            sums[tensor.type] = sums.get(tensor.type, 0) + tensor.size_bytes
        return dict(sorted(sums.items(), key=lambda item: -item[1]))


def read_gguf(path: Path) -> GgufFile:
    """Read the metadata of a file.

    Raises:
        GgufError: It cannot be read, is no GGUF file, is cut off, or is damaged.
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(0)
            return _read(path, _Head(file.read(_MAX_HEAD_BYTES), size), size)
    except OSError as error:
        raise GgufError(f"cannot read {path}: {error.strerror}") from error
    except _DamagedError as error:
        raise GgufError(f"{path} {error}") from error


class _DamagedError(Exception):
    """The file is malformed; the message completes a sentence that begins with its path."""


class _Head:
    """Reads the metadata in order, never beyond its end.

    Args:
        data: The beginning of the file.
        size: The size of the file, bytes.
    """

    def __init__(self, data: bytes, size: int) -> None:
        self._data, self._size = data, size
        self.offset = 0

    def skip(self, count: int) -> None:
        self.offset += count
        if self.offset <= len(self._data):
            return
        if len(self._data) == self._size:
            raise _DamagedError(f"is cut off or damaged: it ends at byte {self._size:,}, within its metadata")
        raise _DamagedError(f"is damaged: its metadata is longer than {_MAX_HEAD_BYTES >> 20} MB")

    def take(self, count: int) -> bytes:
        begin = self.offset
        self.skip(count)
        return self._data[begin : self.offset]

    def numbers(self, form: str, count: int = 1) -> tuple[Any, ...]:
        begin = self.offset
        self.skip(count * struct.calcsize(f"<{form}"))  # before a huge count becomes part of the format
        return struct.unpack_from(f"<{count}{form}", self._data, begin)

    def number(self, form: str) -> Any:
        return self.numbers(form)[0]

    def skip_texts(self, count: int) -> None:
        # A vocabulary has hundreds of thousands: 0.03 s.
        data, offset, length_of = self._data, self.offset, struct.Struct("<Q").unpack_from
        try:
            for _ in range(count):
                offset += 8 + length_of(data, offset)[0]
        except (struct.error, IndexError, OverflowError):
            offset = self._size + 1
        self.skip(offset - self.offset)

    def text(self) -> str:
        return self.take(self.number("Q")).decode("utf-8", "replace")


def _read(path: Path, head: _Head, size: int) -> GgufFile:
    if (start := head.take(min(4, size))) != b"GGUF":
        raise _DamagedError(f"is no GGUF file: it begins with {start!r}")
    if (version := head.number("I")) not in _VERSIONS:
        raise _DamagedError(f"is a GGUF file of version {version}, and only {_VERSIONS} can be read")
    n_tensors, n_values = head.numbers("Q", 2)
    values: dict[str, Value] = {}
    lengths: dict[str, int] = {}
    for _ in range(n_values):
        key, kind = head.text(), head.number("I")
        if kind == _LIST:
            values[key], lengths[key] = _read_list(head)
        else:
            values[key] = _read_value(head, kind)
    tensors = [_read_tensor(head) for _ in range(n_tensors)]
    alignment = values.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment < 1:
        raise _DamagedError(f"is damaged: its alignment is {alignment!r}")
    start_of_data = math.ceil(head.offset / alignment) * alignment
    tensors = [replace(tensor, offset=start_of_data + tensor.offset) for tensor in tensors]
    if (end := max((tensor.offset + tensor.size_bytes for tensor in tensors), default=0)) > size:
        raise _DamagedError(f"is cut off: it has {size:,} of {end:,} bytes")
    return GgufFile(path=path, size_bytes=size, values=values, lengths=lengths, tensors=tuple(tensors))


def _read_value(head: _Head, kind: int) -> Value:
    if kind == _TEXT:
        return head.text()
    if kind not in _SCALARS:
        raise _DamagedError(f"is damaged: it has a value of the unknown type {kind}")
    value: Value = head.number(_SCALARS[kind])
    return value


def _read_list(head: _Head) -> tuple[Value, int]:
    kind, count = head.numbers("I")[0], head.number("Q")
    if kind == _TEXT:
        head.skip_texts(count)
        return None, count
    if kind not in _SCALARS:
        raise _DamagedError(f"is damaged: it has a list of the unknown type {kind}")
    if count > _MAX_LIST:
        head.skip(count * struct.calcsize(f"<{_SCALARS[kind]}"))
        return None, count
    return list(head.numbers(_SCALARS[kind], count)), count


def _read_tensor(head: _Head) -> Tensor:
    """Read the description of a tensor, with its offset after the metadata."""
    name, n_dimensions = head.text(), head.number("I")
    if n_dimensions > _MAX_DIMENSIONS:
        raise _DamagedError(f"is damaged: tensor {name[:64]!r} has {n_dimensions} dimensions")
    shape = head.numbers("Q", n_dimensions)
    kind, offset = head.number("I"), head.number("Q")
    if kind not in _TYPES:
        raise _DamagedError(f"has tensor {name[:64]!r} of the unknown type {kind}")
    word, block, block_bytes = _TYPES[kind]
    if any(not 0 < side <= _MAX_SIDE for side in shape) or (shape and shape[0] % block):
        raise _DamagedError(f"is damaged: tensor {name[:64]!r} has the shape {shape}")
    return Tensor(name, word, kind, shape, math.prod(shape) // block * block_bytes, offset)
