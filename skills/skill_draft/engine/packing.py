"""Packs matrices as our kernels (`kernels/`) read them, and tells the kernels where a file of packed ones is mapped."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from .binding import L
from .build import cpu_library, our_buffer_type
from .mapped import spans_of
from .tokens import Bytes

# Types that our kernels multiply, with the same bits in every batch.
PACKED_TYPES = frozenset({"IQ4_NL", "Q4_0", "Q8_0", "Q4_K", "Q5_K", "Q6_K"})
# Rows of a matrix that are interleaved: a tile. Kernels have tiles of 8 or 16.
TILE_ROWS = 16
_SLICE_BYTES = 16 << 20  # of a matrix that is packed at a time
_MAX_TENSOR_BYTES = 4096  # more than ggml needs for the description of one tensor


class _InitParams(ctypes.Structure):
    """`struct ggml_init_params`."""

    _fields_ = (("mem_size", ctypes.c_size_t), ("mem_buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool))


class _Ggml:
    """The functions of ggml that the bindings lack, with their types."""

    def __init__(self) -> None:
        pointer, size, wide = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int64
        self.init = self._of("ggml_init", pointer, _InitParams)
        self.free = self._of("ggml_free", None, pointer)
        self.new_matrix = self._of("ggml_new_tensor_2d", pointer, pointer, ctypes.c_int, wide, wide)
        self.allocate = self._of("ggml_backend_alloc_ctx_tensors_from_buft", pointer, pointer, pointer)
        self.free_buffer = self._of("ggml_backend_buffer_free", None, pointer)
        self.set = self._of("ggml_backend_tensor_set", None, pointer, pointer, size, size)
        self.data = self._of("ggml_get_data", pointer, pointer)
        self.row_bytes = self._of("ggml_row_size", size, ctypes.c_int, wide)

    @staticmethod
    def _of(name: str, result: object, *arguments: object) -> ctypes._NamedFuncPointer:
        function = L._lib[name]  # noqa: SLF001 - by index: a function of its own, whose types nobody else sets
        function.restype, function.argtypes = result, arguments
        return function  # type: ignore[no-any-return]


def pack(matrix: Bytes, *, type_number: int, width: int) -> Iterator[Bytes]:
    """Yield the bytes of a matrix, packed, in slices that are overwritten by the next.

    Args:
        matrix: Its rows, as in a GGUF file; a multiple of `TILE_ROWS` of them.
        type_number: As ggml numbers types: one of those that our kernels multiply.
        width: Values in a row.
    """
    ggml = _Ggml()
    row_bytes = ggml.row_bytes(type_number, width)
    per_slice = max(TILE_ROWS, _SLICE_BYTES // row_bytes // TILE_ROWS * TILE_ROWS) * row_bytes
    for begin in range(0, len(matrix), per_slice):
        part = matrix[begin : begin + per_slice]
        context = ggml.init(_InitParams(_MAX_TENSOR_BYTES, None, no_alloc=True))
        tensor = ggml.new_matrix(context, type_number, width, len(part) // row_bytes)
        buffer = ggml.allocate(context, our_buffer_type())
        try:
            ggml.set(tensor, part.ctypes.data, 0, len(part))
            yield np.ctypeslib.as_array((ctypes.c_uint8 * len(part)).from_address(ggml.data(tensor)))
        finally:
            ggml.free_buffer(buffer)
            ggml.free(context)


def use_packed(path: Path) -> None:
    """Tell the kernels that the matrices of a mapped file are packed."""
    spans = spans_of(path)
    begin, end = min(begin for begin, _ in spans), max(end for _, end in spans)
    cpu_library().sarai_map_packed(ctypes.c_void_p(begin), ctypes.c_void_p(end))
