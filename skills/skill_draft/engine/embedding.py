"""The input of steps with images: rows of numbers instead of tokens.

A call of llama.cpp has tokens or rows. For an image the rows come from the vision tower; for text they are what
llama.cpp itself would look up, so the bits are the same and both fit into one step.
"""

from __future__ import annotations

import contextlib
import ctypes
from pathlib import Path

import numpy as np

from skills.gguf import Tensor

from .binding import L, Model
from .gguf import tensors
from .mapped import map_file
from .messages import Image
from .prompt import PromptBuilder
from .sequence import Sequence
from .tokens import Embedded, Floats, Ints

# Architectures whose images are read as here: positions by grid, no attention backwards, rows for several layers.
_ARCHITECTURES = {"qwen3vl"}
_TABLE = "token_embd.weight"
_F32 = 0  # of `enum ggml_type`


class _TypeTraits(ctypes.Structure):
    """The beginning of `struct ggml_type_traits`."""

    _fields_ = (
        ("type_name", ctypes.c_char_p), ("blck_size", ctypes.c_int64), ("blck_size_interleave", ctypes.c_int64),
        ("type_size", ctypes.c_size_t), ("is_quantized", ctypes.c_bool),
        ("to_float", ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)),
    )  # fmt: skip


def row_width(model: Model, held: tuple[Tensor, ...]) -> int:
    """Return the floats in a row of an encoded image; 0 if the model reads text alone.

    Args:
        model: The model.
        held: The tensors in its file.
    """
    reads = (
        model.meta("general.architecture") in _ARCHITECTURES
        and any(tensor.name == _TABLE for tensor in held)
        and PromptBuilder(model).has_places
    )
    return model.n_embd_inp if reads else 0


class TokenTable:
    """The matrix in which llama.cpp looks up tokens, read from the model's file."""

    def __init__(self, model: Model) -> None:
        table = next(tensor for tensor in tensors(model.path) if tensor.name == _TABLE)
        lib = L._lib  # noqa: SLF001 - the bindings lack these functions
        lib.ggml_get_type_traits.restype = ctypes.POINTER(_TypeTraits)
        traits = lib.ggml_get_type_traits(table.type_number).contents
        self._to_float = traits.to_float if table.type_number != _F32 else None
        self._n_embd, row_bytes = model.n_embd, model.n_embd // traits.blck_size * traits.type_size
        rows = map_file(model.path)[table.offset :][: table.size_bytes]
        self._rows = rows.reshape(-1, row_bytes)

    def read(self, token: int, row: Floats) -> None:
        """Write a token's row, by the function with which llama.cpp looks it up."""
        packed = self._rows[token]
        if self._to_float:
            self._to_float(packed.ctypes.data, row.ctypes.data, self._n_embd)
        else:
            row[:] = packed.view(np.float32)


class SharedRows:
    """The shared memory that holds encoded images."""

    def __init__(self, path: Path, width: int) -> None:
        """`width` is the number of floats in a row."""
        self._path, self._width = path, width

        self._memory = np.empty(0, np.uint8)

    def holds(self, image: Image, offset: int) -> bool:
        """Return whether an image's rows may begin at an offset."""
        end = offset + image.n_tokens * self._width * 4
        if end > self._memory.size:  # not mapped yet, or it has grown
            with contextlib.suppress(OSError, ValueError):
                self._memory = map_file(self._path)
        return 0 <= offset < end <= self._memory.size

    def of(self, image: Image, offset: int) -> Floats:
        """Return an image's rows, without a copy; shape (n_tokens, width)."""
        rows = self._memory[offset : offset + image.n_tokens * self._width * 4].view(np.float32)
        return rows.reshape(image.n_tokens, self._width)


class Embedder:
    """Writes the input of steps with images."""

    def __init__(self, model: Model, shared: SharedRows) -> None:
        self._table, self._shared = TokenTable(model), shared
        self._n_embd, self._width = model.n_embd, model.n_embd_inp
        self._rows, self._positions = np.empty(0, np.float32), np.empty(0, np.int32)

    def begin(self, n_rows: int) -> Embedded:
        """Return the input of a step of `n_rows` rows, to be filled; it overwrites the last one."""
        if n_rows * self._width > self._rows.size:
            self._rows, self._positions = np.empty(n_rows * self._width, np.float32), np.empty(4 * n_rows, np.int32)
        rows = self._rows[: n_rows * self._width].reshape(n_rows, self._width)
        return Embedded(rows, self._positions[: 4 * n_rows].reshape(4, n_rows))

    def fill(self, step: Embedded, row: int, sequence: Sequence, start: int, tokens: Ints) -> None:
        """Write the input for tokens of a sequence, the first of which has index `start`, from a row of the step on."""
        n, images = len(tokens), sequence.images
        step.positions[:3, row : row + n] = images.positions(start, n) if images else range(start, start + n)
        step.positions[3, row : row + n] = 0
        for i in np.flatnonzero(tokens >= 0).tolist():
            self._table.read(int(tokens[i]), step.rows[row + i, : self._n_embd])
            step.rows[row + i, self._n_embd :] = 0.0
        if images:
            for run in images.after(start):
                first, last = max(run.start, start), min(run.end, start + n)
                if first < last:
                    rows = self._shared.of(run.image, images.offsets[run.image.key])
                    step.rows[row + first - start : row + last - start] = rows[first - run.start : last - run.start]
