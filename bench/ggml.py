"""The parts of ggml's public interface that measuring single nodes needs, by ctypes.

A process may load only one variant of the CPU library, so comparing several takes a process for each.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Iterator
from ctypes import c_char_p, c_float, c_int, c_int64, c_size_t, c_void_p
from pathlib import Path

import numpy as np
import numpy.typing as npt

ROOT = Path(__file__).resolve().parents[1]
# Of `enum ggml_type`.
F32, F16, I32 = 0, 1, 26
TYPES = {"IQ4_NL": 20, "Q8_0": 8, "Q4_0": 2, "Q4_K": 12, "Q5_K": 13, "Q6_K": 14}
_CONTEXT_BYTES = 4 << 20
_NODES = 4096
_QUANTIZED_ROWS = 32  # the rest of a matrix repeats them


class _InitParams(ctypes.Structure):
    _fields_ = [("mem_size", c_size_t), ("mem_buffer", c_void_p), ("no_alloc", ctypes.c_bool)]


_FUNCTIONS: dict[str, tuple[object, list[object]]] = {
    "ggml_init": (c_void_p, [_InitParams]),
    "ggml_new_tensor": (c_void_p, [c_void_p, c_int, c_int, c_void_p]),
    "ggml_mul_mat": (c_void_p, [c_void_p] * 3),
    "ggml_get_rows": (c_void_p, [c_void_p] * 3),
    "ggml_permute": (c_void_p, [c_void_p, c_void_p, c_int, c_int, c_int, c_int]),
    "ggml_flash_attn_ext": (c_void_p, [c_void_p] * 5 + [c_float] * 3),
    "ggml_new_graph_custom": (c_void_p, [c_void_p, c_size_t, ctypes.c_bool]),
    "ggml_build_forward_expand": (None, [c_void_p, c_void_p]),
    "ggml_free": (None, [c_void_p]),
    "ggml_nbytes": (c_size_t, [c_void_p]),
    "ggml_get_data": (c_void_p, [c_void_p]),
    "ggml_row_size": (c_size_t, [c_int, c_int64]),
    "ggml_quantize_chunk": (c_size_t, [c_int, c_void_p, c_void_p, c_int64, c_int64, c_int64, c_void_p]),
    "ggml_backend_reg_dev_get": (c_void_p, [c_void_p, c_size_t]),
    "ggml_backend_reg_get_proc_address": (c_void_p, [c_void_p, c_char_p]),
    "ggml_backend_dev_init": (c_void_p, [c_void_p, c_char_p]),
    "ggml_backend_dev_buffer_type": (c_void_p, [c_void_p]),
    "ggml_backend_dev_supports_op": (ctypes.c_bool, [c_void_p, c_void_p]),
    "ggml_backend_buft_name": (c_char_p, [c_void_p]),
    "ggml_backend_buft_alloc_buffer": (c_void_p, [c_void_p, c_size_t]),
    "ggml_backend_buft_get_alloc_size": (c_size_t, [c_void_p, c_void_p]),
    "ggml_backend_buffer_get_base": (c_void_p, [c_void_p]),
    "ggml_backend_buffer_free": (None, [c_void_p]),
    "ggml_backend_tensor_alloc": (c_int, [c_void_p, c_void_p, c_void_p]),
    "ggml_backend_tensor_set": (None, [c_void_p, c_void_p, c_size_t, c_size_t]),
    "ggml_backend_tensor_get": (None, [c_void_p, c_void_p, c_size_t, c_size_t]),
    "ggml_backend_alloc_ctx_tensors_from_buft": (c_void_p, [c_void_p, c_void_p]),
    "ggml_backend_graph_compute": (c_int, [c_void_p, c_void_p]),
}


class _TensorHead(ctypes.Structure):
    """The first members of `struct ggml_tensor`."""

    _fields_ = [("type", c_int), ("buffer", c_void_p)]


def folder() -> Path:
    """Return the folder of llama.cpp's libraries in the project's own environment, which have our kernels."""
    found = next(ROOT.glob(".venv/lib/python*/site-packages/llama_cpp/lib"), None)
    if found is None:
        raise FileNotFoundError("llama-cpp-python is not installed: run `make setup`")
    return found


@functools.cache
def _base() -> ctypes.CDLL:
    """Return the part of ggml that all variants of the CPU library share."""
    base = ctypes.CDLL(str(folder() / "libggml-base.so.0"), ctypes.RTLD_GLOBAL)
    for name, (result, arguments) in _FUNCTIONS.items():
        function = getattr(base, name)
        function.restype, function.argtypes = result, arguments
    return base


def row_bytes(type_: int, k: int) -> int:
    """Return the bytes that a row of k values takes in a file."""
    return int(_base().ggml_row_size(type_, k))


def variants() -> list[Path]:
    """Return the libraries that this machine can run, in the order in which llama.cpp prefers them."""
    _base()
    found = sorted(folder().glob("libggml-cpu-*.so"))
    scores = {path: int(ctypes.CDLL(str(path)).ggml_backend_score()) for path in found}
    native = [] if found else [folder() / "libggml-cpu.so"]
    return native + sorted((path for path in found if scores[path]), key=lambda path: -scores[path])


class Ggml:
    """A CPU library and its backend."""

    def __init__(self, library: Path, *, threads: int) -> None:
        self._base = _base()
        self._cpu = cpu = ctypes.CDLL(str(library))
        register = getattr(cpu, "ggml_backend_init", None) or cpu.ggml_backend_cpu_reg
        register.restype = c_void_p
        registry = register()
        self._device = self._base.ggml_backend_reg_dev_get(registry, 0)
        self._backend = self._base.ggml_backend_dev_init(self._device, None)
        self._plain: int = self._base.ggml_backend_dev_buffer_type(self._device)
        set_threads = self._base.ggml_backend_reg_get_proc_address(registry, b"ggml_backend_set_n_threads")
        ctypes.CFUNCTYPE(None, c_void_p, c_int)(set_threads)(self._backend, threads)
        extras = self._base.ggml_backend_reg_get_proc_address(registry, b"ggml_backend_dev_get_extra_bufts")
        found = ctypes.CFUNCTYPE(ctypes.POINTER(c_void_p), c_void_p)(extras)(self._device)
        self._buffer_types = [*_until_null(found), self._plain]
        self.buffer_types = {self._base.ggml_backend_buft_name(each).decode(): each for each in self._buffer_types}
        """Types of buffers for weights, by name, in the order in which llama.cpp tries them."""

    def graph(self) -> Graph:
        """Return an empty graph."""
        return Graph(self._base, self._backend, self._plain)

    def map_packed(self, begin: int, end: int) -> None:
        """Tell our kernels at which addresses matrices are packed already."""
        self._cpu.sarai_map_packed(c_void_p(begin), c_void_p(end))

    def weights(self, graph: Graph, type_: int, k: int, columns: int, copies: int) -> tuple[list[int], str]:
        """Return random matrices in the type of buffer that llama.cpp would choose, and that type's name."""
        data = self._random(type_, k, columns)
        tensors = [graph.tensor(type_, k, columns) for _ in range(copies)]
        buffer_type = next(b for b in self._buffer_types if self._multiplies(tensors[0], k, b))
        for tensor in tensors:
            graph.place(tensor, buffer_type, data)
        return tensors, self._base.ggml_backend_buft_name(buffer_type).decode()

    def _multiplies(self, weights: int, k: int, buffer_type: int) -> bool:
        """Probe as llama.cpp does, with a product of weights in an empty buffer of that type."""
        head = ctypes.cast(weights, ctypes.POINTER(_TensorHead)).contents
        probe = self.graph()
        head.buffer = self._base.ggml_backend_buft_alloc_buffer(buffer_type, 0)
        try:
            node = self._base.ggml_mul_mat(probe.context, weights, probe.tensor(F32, k, 512))
            return bool(self._base.ggml_backend_dev_supports_op(self._device, node))
        finally:
            self._base.ggml_backend_buffer_free(head.buffer)
            head.buffer = None
            probe.close()

    def quantized(self, type_: int, values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
        """Return rows of values, quantised as in a file."""
        rows, k = values.shape
        packed = np.empty((rows, row_bytes(type_, k)), np.uint8)
        self._base.ggml_quantize_chunk(type_, values.ctypes.data, packed.ctypes.data, 0, rows, k, None)
        return packed

    def _random(self, type_: int, k: int, columns: int) -> npt.NDArray[np.uint8]:
        values = np.random.default_rng(0).standard_normal((_QUANTIZED_ROWS, k), np.float32)
        return np.resize(self.quantized(type_, values), (columns, row_bytes(type_, k)))


class Graph:
    """Nodes to compute one after the other, and the tensors that they read."""

    def __init__(self, base: ctypes.CDLL, backend: int, plain: int) -> None:
        self._base, self._backend, self._plain = base, backend, plain
        self.context: int = base.ggml_init(_InitParams(_CONTEXT_BYTES, None, True))
        self._graph: int = 0
        self._buffers: list[int] = []

    def tensor(self, type_: int, *shape: int) -> int:
        """Return a new tensor without memory; the first dimension is the contiguous one."""
        sizes = (c_int64 * len(shape))(*shape)
        return int(self._base.ggml_new_tensor(self.context, type_, len(shape), sizes))

    def permuted(self, tensor: int, *axes: int) -> int:
        """Return a view with permuted dimensions."""
        return int(self._base.ggml_permute(self.context, tensor, *axes))

    def place(self, tensor: int, buffer_type: int, data: npt.NDArray[np.uint8]) -> None:
        """Give a tensor its own memory and set its values."""
        size = self._base.ggml_backend_buft_get_alloc_size(buffer_type, tensor)
        buffer = self._base.ggml_backend_buft_alloc_buffer(buffer_type, size)
        if not buffer:
            raise MemoryError(f"no memory for {size} bytes of weights")
        self._buffers.append(buffer)
        self._base.ggml_backend_tensor_alloc(buffer, tensor, self._base.ggml_backend_buffer_get_base(buffer))
        self.set(tensor, data)

    def set(self, tensor: int, data: npt.NDArray[np.generic]) -> None:
        """Set a tensor's values."""
        self._base.ggml_backend_tensor_set(tensor, data.ctypes.data, 0, data.nbytes)

    def address(self, tensor: int) -> int:
        """Return where a tensor's values are."""
        return int(self._base.ggml_get_data(tensor))

    def read(self, tensor: int, *shape: int) -> npt.NDArray[np.float32]:
        """Return a tensor's floats; the last dimension is the contiguous one."""
        values = np.empty(shape, np.float32)
        self._base.ggml_backend_tensor_get(tensor, values.ctypes.data, 0, values.nbytes)
        return values

    def picked(self, weights: int, columns: int) -> int:
        """Return a node that reads columns of weights as floats."""
        return int(self._base.ggml_get_rows(self.context, weights, columns))

    def product(self, weights: int, rows: int) -> int:
        """Return a node that multiplies rows with a matrix."""
        return int(self._base.ggml_mul_mat(self.context, weights, rows))

    def attention(self, q: int, k: int, v: int, mask: int, scale: float) -> int:
        """Return a node of flash attention."""
        return int(self._base.ggml_flash_attn_ext(self.context, q, k, v, mask, scale, 0.0, 0.0))

    def finish(self, nodes: list[int]) -> None:
        """Allocate all tensors without memory and add the nodes to the graph."""
        self._buffers.append(self._base.ggml_backend_alloc_ctx_tensors_from_buft(self.context, self._plain))
        self._graph = self._base.ggml_new_graph_custom(self.context, _NODES, False)
        for node in nodes:
            self._base.ggml_build_forward_expand(self._graph, node)

    def compute(self) -> None:
        """Compute all nodes."""
        if self._base.ggml_backend_graph_compute(self._backend, self._graph):
            raise RuntimeError("ggml could not compute the graph")

    def close(self) -> None:
        """Free all memory."""
        for buffer in self._buffers:
            self._base.ggml_backend_buffer_free(buffer)
        self._base.ggml_free(self.context)


def _until_null(pointers: ctypes._Pointer[c_void_p]) -> Iterator[int]:
    at = 0
    while address := pointers[at]:
        yield int(address)
        at += 1
