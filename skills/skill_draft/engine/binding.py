"""llama.cpp, as much of it as the engine needs: the one file that imports `llama_cpp`.

Only the engine's thread may touch a `Context`; a `Vocab` may be read by several threads at once.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import importlib.util
import os
import sys
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# K-quant matrices take a tiled kernel from 8 rows on whose sums differ from the one-row kernel's. llama.cpp reads this
# once, when the library loads; `exact` numerics need it off, and so it is off unless the engine asks for `fast`.
if os.environ.get("SKILL_DRAFT_NUMERICS", "exact") != "fast":
    os.environ.setdefault("GGML_CPU_TILED_MM", "0")

import numpy as np
import numpy.typing as npt


def _load_bindings() -> Any:
    """`llama_cpp.llama_cpp`, without running `llama_cpp/__init__.py`.

    The package's `__init__` imports the high-level `Llama`, its chat formats and a pickle cache: 0.2 s and 20 MB of
    what this engine never calls. A bare package with the same path stands in for it while the bindings load.
    """
    spec = importlib.util.find_spec("llama_cpp")
    if spec is None or spec.submodule_search_locations is None:
        raise ModuleNotFoundError("llama-cpp-python is not installed: run `make setup`")
    if "llama_cpp" in sys.modules:
        return importlib.import_module("llama_cpp.llama_cpp")
    package = types.ModuleType("llama_cpp")
    package.__path__ = list(spec.submodule_search_locations)
    sys.modules["llama_cpp"] = package
    try:
        return importlib.import_module("llama_cpp.llama_cpp")
    finally:
        del sys.modules["llama_cpp"]


def _load_cpu_library() -> None:
    """Loads the library for this CPU, where the build has one for each CPU family instead of one built in."""
    folder = Path(L.__file__).parent / "lib"
    # By way of libllama, which has it loaded: a wheel holds the same library under several names, each a file of its
    # own with a list of backends of its own.
    ggml = L._lib  # noqa: SLF001
    ggml.ggml_backend_reg_count.restype = ctypes.c_size_t
    if ggml.ggml_backend_reg_count() == 0:
        ggml.ggml_backend_load_all_from_path(str(folder).encode())


L: Any = _load_bindings()

GGML_TYPES: dict[int, str] = {
    value: name.removeprefix("GGML_TYPE_") for name, value in vars(L).items() if name.startswith("GGML_TYPE_")
}


class ModelError(Exception):
    """The model cannot be loaded or used; the message says why and what to do."""


class DecodeError(RuntimeError):
    """`llama_decode` failed: the state of the context is unknown and the process should be replaced."""


_CPU = 0  # of `enum ggml_backend_dev_type`
_log_tail: list[str] = []


@L.llama_log_callback  # type: ignore[untyped-decorator]
def _on_log(level: int, text: bytes, _data: object) -> None:
    """Keeps llama.cpp quiet, and its last complaints for our own error messages (3 is WARN, 4 is ERROR)."""
    if level >= 3:
        line = text.decode("utf-8", "replace").strip(" .\n")
        _log_tail.extend([line] if line else [])
        del _log_tail[:-4]


L.llama_log_set(_on_log, None)
_load_cpu_library()  # after the above, as it says what it loads
L.llama_backend_init()


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelParams:
    """How a model file is loaded."""

    mmap: bool = True
    """Map the file instead of reading it. Repacked matrices are a copy all the same."""
    repack: bool = True
    """Turn matrices into the layout of this CPU's fastest kernels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextParams:
    """How a context is made. Sizes are in tokens (cells)."""

    n_cells: int
    n_batch: int
    n_slots: int
    """Sequence ids, the running ones, the prefixes and the trash together."""
    n_threads: int
    exact: bool = True


def system_info() -> str:
    """What the library was compiled for and uses, as llama.cpp prints it: `CPU : AVX2 = 1 | FMA = 1 | …`."""
    return str(L.llama_print_system_info().decode())


def has_our_kernels() -> bool:
    """Whether llama.cpp computes with this project's kernels (`kernels/`): on x86 with AVX2, in a build of ours."""
    lib = L._lib  # noqa: SLF001 - the bindings leave these functions of the library out
    lib.ggml_backend_dev_by_type.restype = lib.ggml_backend_dev_backend_reg.restype = ctypes.c_void_p
    lib.ggml_backend_reg_get_proc_address.restype = ctypes.c_void_p
    lib.ggml_backend_buft_name.restype = ctypes.c_char_p
    device = ctypes.c_void_p(lib.ggml_backend_dev_by_type(_CPU))
    registry = ctypes.c_void_p(lib.ggml_backend_dev_backend_reg(device))
    address = lib.ggml_backend_reg_get_proc_address(registry, b"ggml_backend_dev_get_extra_bufts")
    first = ctypes.CFUNCTYPE(ctypes.POINTER(ctypes.c_void_p), ctypes.c_void_p)(address)(device)[0]
    return bool(first) and lib.ggml_backend_buft_name(ctypes.c_void_p(first)) == b"SARAi"


def tensor_types(path: Path) -> set[str]:
    """The types of a GGUF's matrices (tensors of two dimensions or more), like `{"IQ4_NL", "Q6_K"}`.

    Raises `ModelError` if the file is no GGUF or cannot be read: the library would not say which.
    """
    try:
        path.open("rb").close()
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from error

    class InitParams(ctypes.Structure):
        _fields_ = [("no_alloc", ctypes.c_bool), ("ctx", ctypes.c_void_p)]

    base = L._lib  # noqa: SLF001 - the bindings leave these functions of the library out
    base.gguf_init_from_file.restype = ctypes.c_void_p
    base.gguf_init_from_file.argtypes = [ctypes.c_char_p, InitParams]
    base.gguf_get_n_tensors.restype = ctypes.c_int64
    base.gguf_get_n_tensors.argtypes = [ctypes.c_void_p]
    base.gguf_get_tensor_type.restype = ctypes.c_int
    base.gguf_get_tensor_type.argtypes = [ctypes.c_void_p, ctypes.c_int64]
    base.gguf_get_tensor_ne.restype = ctypes.POINTER(ctypes.c_int64)
    base.gguf_get_tensor_ne.argtypes = [ctypes.c_void_p, ctypes.c_int64]
    base.gguf_free.argtypes = [ctypes.c_void_p]
    gguf = base.gguf_init_from_file(str(path).encode(), InitParams(True, None))
    if not gguf:
        raise ModelError(f"{path} is not a GGUF file that this llama.cpp can read")
    try:
        matrices = (i for i in range(base.gguf_get_n_tensors(gguf)) if base.gguf_get_tensor_ne(gguf, i)[1] > 1)
        return {GGML_TYPES.get(base.gguf_get_tensor_type(gguf, i), "?") for i in matrices}
    finally:
        base.gguf_free(gguf)


def requantize(source: Path, target: Path) -> None:
    """Writes a quantised model in Q8_0. Raises `ModelError`."""
    params = L.llama_model_quantize_default_params()
    params.ftype, params.allow_requantize = L.LLAMA_FTYPE_MOSTLY_Q8_0, True
    if L.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(params)):
        raise ModelError(f"llama.cpp cannot write {source.name} in Q8_0: {'; '.join(_log_tail) or 'no reason given'}")


class Vocab:
    """Text to tokens and back."""

    def __init__(self, handle: Any) -> None:
        self.handle = handle
        self.n_tokens: int = L.llama_vocab_n_tokens(handle)
        self._pieces: dict[int, bytes] = {}
        self.bos: int = L.llama_vocab_bos(handle)
        self.eos: int = L.llama_vocab_eos(handle)
        self.adds_bos: bool = L.llama_vocab_get_add_bos(handle)
        attrs = [L.llama_vocab_get_attr(handle, token) for token in range(self.n_tokens)]
        special = L.LLAMA_TOKEN_ATTR_CONTROL | L.LLAMA_TOKEN_ATTR_UNKNOWN
        marked = special | L.LLAMA_TOKEN_ATTR_USER_DEFINED
        self.attrs: dict[int, int] = {token: attr for token, attr in enumerate(attrs) if attr & marked}
        self.control: frozenset[int] = frozenset(t for t, attr in self.attrs.items() if attr & special)
        self.special_texts: dict[str, int] = {text: token for token in self.attrs if (text := self._text(token))}
        self.eog: frozenset[int] = frozenset(t for t in self.attrs if L.llama_vocab_is_eog(handle, t))

    @functools.cached_property
    def byte_tokens(self) -> dict[int, int]:
        """The tokens that are a single byte, by that byte."""
        return {
            piece[0]: token
            for token in range(self.n_tokens)
            if token not in self.control and len(piece := self.piece(token)) == 1
        }

    @functools.cached_property
    def missing_bytes(self) -> frozenset[int]:
        """The bytes that no token has: most vocabularies lack those that begin the rarest characters."""
        written = set().union(*(self.read_piece(t) for t in range(self.n_tokens) if t not in self.control))
        return frozenset(range(256)) - written

    @property
    def address(self) -> int:
        """Where llama.cpp has it, for a library that calls llama.cpp itself."""
        return int(ctypes.cast(self.handle, ctypes.c_void_p).value or 0)

    @property
    def tokenize_address(self) -> int:
        """Where `llama_tokenize` is, likewise."""
        return int(ctypes.cast(L._lib.llama_tokenize, ctypes.c_void_p).value or 0)  # noqa: SLF001

    def _text(self, token: int) -> str:
        raw: bytes | None = L.llama_vocab_get_text(self.handle, token)
        return raw.decode("utf-8", "replace") if raw else ""

    def strips(self, token: int) -> tuple[bool, bool]:
        """Whether a special token swallows the white space on its left and on its right."""
        attr = self.attrs.get(token, 0)
        return bool(attr & L.LLAMA_TOKEN_ATTR_LSTRIP), bool(attr & L.LLAMA_TOKEN_ATTR_RSTRIP)

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """The tokens of a text. With `parse_special`, control tokens written in it are control tokens."""
        raw = text.encode("utf-8", "surrogatepass")
        room = len(raw) + 8
        buffer = (L.llama_token * room)()
        n = L.llama_tokenize(self.handle, raw, len(raw), buffer, room, add_special, parse_special)
        if n < 0:
            room = -n
            buffer = (L.llama_token * room)()
            n = L.llama_tokenize(self.handle, raw, len(raw), buffer, room, add_special, parse_special)
        tokens: list[int] = buffer[:n]
        return tokens

    def piece(self, token: int) -> bytes:
        """The bytes that a token writes; none for a control token."""
        piece = self._pieces.get(token)
        if piece is None:
            piece = self._pieces[token] = self.read_piece(token)
        return piece

    def read_piece(self, token: int) -> bytes:
        """The same without remembering it: all pieces of a large vocabulary would take 20 MB."""
        buffer = ctypes.create_string_buffer(256)
        n = L.llama_token_to_piece(self.handle, token, buffer, len(buffer), 0, False)
        return buffer.raw[:n] if n > 0 else b""


class Model:
    """A loaded model file."""

    def __init__(self, path: Path, params: ModelParams) -> None:
        """Loads the file; raises `ModelError` if that fails."""
        self.path = path
        native = L.llama_model_default_params()
        native.n_gpu_layers = 0
        native.load_mode = L.LLAMA_LOAD_MODE_MMAP if params.mmap else L.LLAMA_LOAD_MODE_NONE
        native.use_extra_bufts = params.repack
        self.handle = L.llama_model_load_from_file(str(path).encode(), native)
        if not self.handle:
            raise ModelError(f"llama.cpp cannot load {path}: {'; '.join(_log_tail) or 'no reason given'}")
        self.vocab = Vocab(L.llama_model_get_vocab(self.handle))
        self.n_ctx_train: int = L.llama_model_n_ctx_train(self.handle)
        self.n_layer: int = L.llama_model_n_layer(self.handle)
        self.n_embd: int = L.llama_model_n_embd(self.handle)
        self.n_head_kv: int = L.llama_model_n_head_kv(self.handle)
        self.head_size: int = self.n_embd // L.llama_model_n_head(self.handle)
        template: bytes | None = L.llama_model_chat_template(self.handle, None)
        self.chat_template = template.decode() if template else None

    def meta(self, key: str) -> str | None:
        """A value of the file's metadata, as text."""
        buffer = ctypes.create_string_buffer(4096)
        n = L.llama_model_meta_val_str(self.handle, key.encode(), buffer, len(buffer))
        return buffer.value.decode("utf-8", "replace") if n >= 0 else None


class Context:
    """A KV cache and the means to fill it: rows of tokens in, logits out."""

    def __init__(self, model: Model, params: ContextParams) -> None:
        """Allocates the cache; raises `ModelError` if there is no memory for it."""
        self.model = model
        self.n_batch = params.n_batch
        native = L.llama_context_default_params()
        native.n_ctx, native.n_batch, native.n_ubatch = params.n_cells, params.n_batch, params.n_batch
        native.n_seq_max = params.n_slots
        native.n_threads = native.n_threads_batch = params.n_threads
        native.kv_unified = True
        native.flash_attn_type = L.LLAMA_FLASH_ATTN_TYPE_ENABLED
        # K and V of different types keep llama.cpp off the attention kernels that sum in another order when there
        # are many queries or cells; with F16 for both they are faster and an answer depends on its batch.
        native.type_k = L.GGML_TYPE_Q8_0 if params.exact else L.GGML_TYPE_F16
        native.type_v = L.GGML_TYPE_F16
        native.no_perf = True
        self.handle = L.llama_init_from_model(model.handle, native)
        if not self.handle:
            raise ModelError(f"no context of {params.n_cells} cells: {'; '.join(_log_tail) or 'no reason given'}")
        self.n_cells: int = L.llama_n_ctx(self.handle)
        self._memory = L.llama_get_memory(self.handle)
        self._n_vocab = model.vocab.n_tokens
        self._make_batch(params.n_batch)
        self._logits_at, self._logits = 0, np.empty((0, self._n_vocab), np.float32)
        self._state = np.empty(0, np.uint8)

    def close(self) -> None:
        """Gives the memory back. The context is of no use any more."""
        L.llama_free(self.handle)

    def _make_batch(self, n: int) -> None:
        """Arrays that llama.cpp reads in place; `seq_ids` holds one id a row, `_seq_rows` points at each."""
        self.tokens, self.positions = np.zeros(n, np.int32), np.zeros(n, np.int32)
        self.seq_ids, self.wants_logits = np.zeros(n, np.int32), np.zeros(n, np.int8)
        self._n_seq_id = np.ones(n, np.int32)
        self._seq_rows = self.seq_ids.ctypes.data + 4 * np.arange(n + 1, dtype=np.uint64)
        batch = L.llama_batch()
        pointers = (
            ("token", self.tokens), ("pos", self.positions), ("n_seq_id", self._n_seq_id),
            ("seq_id", self._seq_rows), ("logits", self.wants_logits),
        )  # fmt: skip
        kinds = dict(L.llama_batch._fields_)
        for field, array in pointers:
            setattr(batch, field, ctypes.cast(array.ctypes.data, kinds[field]))
        self._batch = batch

    def decode(self, n_rows: int) -> npt.NDArray[np.float32]:
        """Runs the first `n_rows` rows of the batch arrays.

        Returns the logits of the rows with `wants_logits`, in order, as a view of shape (n_outputs, n_vocab) that the
        next call overwrites. Raises `DecodeError` on any failure.
        """
        self._batch.n_tokens = n_rows
        code = L.llama_decode(self.handle, self._batch)
        if code:
            raise DecodeError(f"llama_decode returned {code} for {n_rows} rows: {'; '.join(_log_tail)}")
        n_outputs = int(np.count_nonzero(self.wants_logits[:n_rows]))
        if not n_outputs:
            # Nothing reads the result, so nothing would wait for it either.
            L.llama_synchronize(self.handle)
            return self._logits[:0]
        address = ctypes.addressof(L.llama_get_logits(self.handle).contents)
        if address != self._logits_at or n_outputs > len(self._logits):  # its making costs as much as choosing a token
            self._logits_at = address
            self._logits = np.ctypeslib.as_array(L.llama_get_logits(self.handle), (n_outputs, self._n_vocab))
        return self._logits[:n_outputs]

    def set_threads(self, n: int) -> None:
        """Uses `n` threads from the next step on. Does not change the bits."""
        L.llama_set_n_threads(self.handle, n, n)

    def copy_cells(self, source: int, target: int, start: int = -1, end: int = -1) -> None:
        """Makes `target` a further owner of `source`'s cells at positions [start, end); copies no data."""
        L.llama_memory_seq_cp(self._memory, source, target, start, end)

    def release_cells(self, slot: int, start: int = -1, end: int = -1) -> None:
        """Ends `slot`'s ownership of its cells at positions [start, end); what nobody owns is free."""
        if not L.llama_memory_seq_rm(self._memory, slot, start, end):
            raise DecodeError(f"llama.cpp refused to remove positions {start} to {end} of slot {slot}")

    def clear(self) -> None:
        """Frees all cells."""
        L.llama_memory_clear(self._memory, False)

    def saved_size(self, slot: int) -> int:
        """Bytes of a slot's cells when saved."""
        return int(L.llama_state_seq_get_size(self.handle, slot))

    def save_into(self, slot: int, room: npt.NDArray[np.uint8]) -> None:
        """Copies a slot's cells into an array of `saved_size` bytes."""
        got = L.llama_state_seq_get_data(self.handle, _as_bytes(room), len(room), slot)
        if got != len(room):
            raise DecodeError(f"saving slot {slot} gave {got} of {len(room)} bytes")

    def save(self, slot: int) -> tuple[int, int]:
        """Copies a slot's cells to the end of a buffer that is kept; returns its place there (start, size)."""
        start, size = self._saved, self.saved_size(slot)
        if start + size > len(self._state):
            grown = np.empty(start + size + len(self._state) // 4, np.uint8)
            grown[:start] = self._state[:start]
            self._state = grown
        self.save_into(slot, self._state[start : start + size])
        self._saved = start + size
        return start, size

    def begin_save(self) -> None:
        """Forgets what `save` kept. The buffer stays: one allocated anew costs ten times the copy."""
        self._saved = 0

    def saved(self, place: tuple[int, int]) -> npt.NDArray[np.uint8]:
        """A view of what `save` kept, good until the next `save`."""
        start, size = place
        return self._state[start : start + size]

    def restore(self, slot: int, data: npt.NDArray[np.uint8]) -> None:
        """Writes saved cells into the lowest free ones, as cells of `slot`, which has none."""
        if L.llama_state_seq_set_data(self.handle, _as_bytes(data), len(data), slot) != len(data):
            raise DecodeError(f"restoring {len(data)} bytes into slot {slot} failed: {'; '.join(_log_tail)}")

    _saved = 0


def _as_bytes(array: npt.NDArray[np.uint8]) -> Any:
    return ctypes.cast(array.ctypes.data, ctypes.POINTER(ctypes.c_uint8))
