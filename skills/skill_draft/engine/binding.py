"""The parts of llama.cpp that the engine needs: the only file that imports `llama_cpp`.

Only the engine's thread may touch a `Context`; several threads may read a `Vocab` at once.
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
from typing import TYPE_CHECKING, Any

# From 8 rows on, K-quant matrices use a tiled kernel whose sums differ from the one-row kernel's. `exact` numerics need
# it off, so it is off unless the engine asks for `fast`. llama.cpp reads this once, when the library loads.
if os.environ.get("SKILL_DRAFT_NUMERICS", "exact") != "fast":
    os.environ.setdefault("GGML_CPU_TILED_MM", "0")

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from .tokens import Embedded


def load_bindings(module: str) -> Any:
    """Import a module of `llama_cpp` without running `llama_cpp/__init__.py`.

    The package's `__init__` imports the high-level `Llama`, its chat formats and a pickle cache: 0.2 s and 20 MB that
    this engine never needs. A bare package with the same path stands in for it while the bindings load.
    """
    spec = importlib.util.find_spec("llama_cpp")
    if spec is None or spec.submodule_search_locations is None:
        raise ModuleNotFoundError("llama-cpp-python is not installed: run `make setup`")
    if "llama_cpp" in sys.modules:
        return importlib.import_module(f"llama_cpp.{module}")
    package = types.ModuleType("llama_cpp")
    package.__path__ = list(spec.submodule_search_locations)
    sys.modules["llama_cpp"] = package
    try:
        return importlib.import_module(f"llama_cpp.{module}")
    finally:
        del sys.modules["llama_cpp"]


def _load_cpu_library() -> None:
    """Load the library for this CPU, if the build has one for each CPU family instead of a built-in one."""
    folder = Path(L.__file__).parent / "lib"
    # Through libllama: a wheel has copies of this library under several names, each with its own list of backends.
    ggml = L._lib  # noqa: SLF001
    ggml.ggml_backend_reg_count.restype = ctypes.c_size_t
    if ggml.ggml_backend_reg_count() == 0:
        ggml.ggml_backend_load_all_from_path(str(folder).encode())


L: Any = load_bindings("llama_cpp")


class ModelError(Exception):
    """The model cannot be loaded or used; the message includes the remedy."""


class DecodeError(RuntimeError):
    """`llama_decode` failed: the context's state is unknown and the process should be replaced."""


_KINDS: dict[str, Any] = dict(L.llama_batch._fields_)
log_tail: list[str] = []


@L.llama_log_callback  # type: ignore[untyped-decorator]
def _on_log(level: int, text: bytes, _data: object) -> None:
    """Silence llama.cpp and keep its last warnings for our own error messages (level 3 is WARN, 4 is ERROR)."""
    if level >= 3:
        line = text.decode("utf-8", "replace").strip(" .\n")
        log_tail.extend([line] if line else [])
        del log_tail[:-4]


L.llama_log_set(_on_log, None)
_load_cpu_library()  # after the above, as it logs what it loads
L.llama_backend_init()


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelParams:
    """How to load a model file."""

    mmap: bool = True
    """Map the file instead of reading it. Repacked matrices are copies all the same."""
    repack: bool = True
    """Convert matrices to the layout of this CPU's fastest kernels."""
    packed: Path | None = None
    """A copy of the file whose matrices have that layout already; it is mapped in place of the file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextParams:
    """How to create a context. Sizes are in tokens (cells)."""

    n_cells: int
    n_batch: int
    n_slots: int
    """Sequence ids for running sequences, prefixes and the cache itself."""
    n_threads: int
    exact: bool = True


class Vocab:
    """The model's tokenizer and detokenizer."""

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
        """The single-byte tokens, by their byte."""
        return {
            piece[0]: token
            for token in range(self.n_tokens)
            if token not in self.control and len(piece := self.piece(token)) == 1
        }

    @functools.cached_property
    def missing_bytes(self) -> frozenset[int]:
        """The bytes that no token contains: most vocabularies lack those that begin the rarest characters."""
        written = set().union(*(self.read_piece(t) for t in range(self.n_tokens) if t not in self.control))
        return frozenset(range(256)) - written

    @property
    def address(self) -> int:
        """llama.cpp's pointer to it, for a library that calls llama.cpp itself."""
        return int(ctypes.cast(self.handle, ctypes.c_void_p).value or 0)

    @property
    def tokenize_address(self) -> int:
        """The address of `llama_tokenize`, likewise."""
        return int(ctypes.cast(L._lib.llama_tokenize, ctypes.c_void_p).value or 0)  # noqa: SLF001

    def _text(self, token: int) -> str:
        raw: bytes | None = L.llama_vocab_get_text(self.handle, token)
        return raw.decode("utf-8", "replace") if raw else ""

    def strips(self, token: int) -> tuple[bool, bool]:
        """Return whether a special token absorbs the white space on its left and on its right."""
        attr = self.attrs.get(token, 0)
        return bool(attr & L.LLAMA_TOKEN_ATTR_LSTRIP), bool(attr & L.LLAMA_TOKEN_ATTR_RSTRIP)

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Return the tokens of a text. With `parse_special`, control tokens spelled out in it become control tokens."""
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
        """Return the bytes of a token; none for a control token."""
        piece = self._pieces.get(token)
        if piece is None:
            piece = self._pieces[token] = self.read_piece(token)
        return piece

    def read_piece(self, token: int) -> bytes:
        """Return the same without caching: all pieces of a large vocabulary would take 20 MB."""
        buffer = ctypes.create_string_buffer(256)
        n = L.llama_token_to_piece(self.handle, token, buffer, len(buffer), 0, False)
        return buffer.raw[:n] if n > 0 else b""


class Model:
    """A loaded model file."""

    def __init__(self, path: Path, params: ModelParams) -> None:
        """Load the file; raise `ModelError` if that fails."""
        self.path = path
        native = L.llama_model_default_params()
        native.n_gpu_layers = 0
        native.load_mode = L.LLAMA_LOAD_MODE_MMAP if params.mmap else L.LLAMA_LOAD_MODE_NONE
        native.use_extra_bufts = params.repack and not params.packed
        self.handle = L.llama_model_load_from_file(str(params.packed or path).encode(), native)
        if not self.handle:
            raise ModelError(f"llama.cpp cannot load {path}: {'; '.join(log_tail) or 'no reason given'}")
        self.vocab = Vocab(L.llama_model_get_vocab(self.handle))
        self.n_ctx_train: int = L.llama_model_n_ctx_train(self.handle)
        self.n_layer: int = L.llama_model_n_layer(self.handle)
        self.n_embd: int = L.llama_model_n_embd(self.handle)
        self.n_head_kv: int = L.llama_model_n_head_kv(self.handle)
        self.n_embd_inp: int = L.llama_model_n_embd_inp(self.handle)
        self.head_size: int = self.n_embd // L.llama_model_n_head(self.handle)
        template: bytes | None = L.llama_model_chat_template(self.handle, None)
        self.chat_template = template.decode() if template else None

    def meta(self, key: str) -> str | None:
        """Return a value of the file's metadata, as text."""
        buffer = ctypes.create_string_buffer(4096)
        n = L.llama_model_meta_val_str(self.handle, key.encode(), buffer, len(buffer))
        return buffer.value.decode("utf-8", "replace") if n >= 0 else None


class Context:
    """A KV cache, filled by decoding rows of tokens, which yields logits."""

    def __init__(self, model: Model, params: ContextParams) -> None:
        """Allocate the cache; raise `ModelError` if there is no memory for it."""
        self.model = model
        self.n_batch = params.n_batch
        native = L.llama_context_default_params()
        native.n_ctx, native.n_batch, native.n_ubatch = params.n_cells, params.n_batch, params.n_batch
        native.n_seq_max = params.n_slots
        native.n_threads = native.n_threads_batch = params.n_threads
        native.kv_unified = True
        native.flash_attn_type = L.LLAMA_FLASH_ATTN_TYPE_ENABLED
        # Different types for K and V keep llama.cpp from using attention kernels that sum in a different order when
        # there are many queries or cells. With F16 for both it uses them: faster, but an answer depends on its batch.
        native.type_k = L.GGML_TYPE_Q8_0 if params.exact else L.GGML_TYPE_F16
        native.type_v = L.GGML_TYPE_F16
        native.no_perf = True
        self.handle = L.llama_init_from_model(model.handle, native)
        if not self.handle:
            raise ModelError(f"no context of {params.n_cells} cells: {'; '.join(log_tail) or 'no reason given'}")
        self.n_cells: int = L.llama_n_ctx(self.handle)
        self._memory = L.llama_get_memory(self.handle)
        self._n_vocab = model.vocab.n_tokens
        self._make_batch(params.n_batch)
        self._logits_at, self._logits = 0, np.empty((0, self._n_vocab), np.float32)
        self._state = np.empty(0, np.uint8)

    def close(self) -> None:
        """Free the memory; the context must not be used afterwards."""
        L.llama_free(self.handle)

    def _make_batch(self, n: int) -> None:
        """Allocate the arrays that llama.cpp reads in place; `_seq_rows` has a pointer to each row's `seq_ids`."""
        self.tokens, self.positions = np.zeros(n, np.int32), np.zeros(n, np.int32)
        self.seq_ids, self.wants_logits = np.zeros(n, np.int32), np.zeros(n, np.int8)
        self._n_seq_id = np.ones(n, np.int32)
        self._seq_rows = self.seq_ids.ctypes.data + 4 * np.arange(n + 1, dtype=np.uint64)
        batch = L.llama_batch()
        pointers = (
            ("token", self.tokens), ("pos", self.positions), ("n_seq_id", self._n_seq_id),
            ("seq_id", self._seq_rows), ("logits", self.wants_logits),
        )  # fmt: skip
        for field, array in pointers:
            setattr(batch, field, ctypes.cast(array.ctypes.data, _KINDS[field]))
        self._batch = batch

    def decode(self, n_rows: int) -> npt.NDArray[np.float32]:
        """Run the first `n_rows` rows of the batch arrays.

        Returns:
            The logits of the rows with `wants_logits`, in order, as a view of shape (n_outputs, n_vocab) that the next
            call overwrites.

        Raises:
            DecodeError: llama.cpp failed.
        """
        return self._run(self._batch, n_rows)

    def decode_embedded(self, step: Embedded) -> npt.NDArray[np.float32]:
        """Do the same for rows whose tokens and positions are replaced by others, as an image is among them."""
        batch = L.llama_batch.from_buffer_copy(self._batch)
        batch.token = None
        batch.embd = ctypes.cast(step.rows.ctypes.data, _KINDS["embd"])
        batch.pos = ctypes.cast(step.positions.ctypes.data, _KINDS["pos"])
        return self._run(batch, len(step.rows))

    def _run(self, batch: Any, n_rows: int) -> npt.NDArray[np.float32]:
        batch.n_tokens = n_rows
        code = L.llama_decode(self.handle, batch)
        if code:
            raise DecodeError(f"llama_decode returned {code} for {n_rows} rows: {'; '.join(log_tail)}")
        n_outputs = int(np.count_nonzero(self.wants_logits[:n_rows]))
        if not n_outputs:
            # Without logits to read, nothing else would wait for the computation.
            L.llama_synchronize(self.handle)
            return self._logits[:0]
        address = ctypes.addressof(L.llama_get_logits(self.handle).contents)
        # Creating the array costs as much as choosing a token.
        if address != self._logits_at or n_outputs > len(self._logits):
            self._logits_at = address
            self._logits = np.ctypeslib.as_array(L.llama_get_logits(self.handle), (n_outputs, self._n_vocab))
        return self._logits[:n_outputs]

    def set_threads(self, n: int) -> None:
        """Use `n` threads from the next step on. The bits do not depend on it."""
        L.llama_set_n_threads(self.handle, n, n)

    def copy_cells(self, source: int, target: int, start: int = -1, end: int = -1) -> None:
        """Make `target` another owner of `source`'s cells at positions [start, end), without copying data."""
        L.llama_memory_seq_cp(self._memory, source, target, start, end)

    def release_cells(self, slot: int, start: int = -1, end: int = -1) -> None:
        """End `slot`'s ownership of its cells at positions [start, end); cells without an owner are free."""
        if not L.llama_memory_seq_rm(self._memory, slot, start, end):
            raise DecodeError(f"llama.cpp refused to remove positions {start} to {end} of slot {slot}")

    def clear(self) -> None:
        """Free all cells."""
        L.llama_memory_clear(self._memory, False)

    def saved_size(self, slot: int) -> int:
        """Return how many bytes a slot's cells take when saved."""
        return int(L.llama_state_seq_get_size(self.handle, slot))

    def save_into(self, slot: int, room: npt.NDArray[np.uint8]) -> None:
        """Copy a slot's cells into an array of `saved_size` bytes."""
        got = L.llama_state_seq_get_data(self.handle, _as_bytes(room), len(room), slot)
        if got != len(room):
            raise DecodeError(f"saving slot {slot} gave {got} of {len(room)} bytes")

    def save(self, slot: int) -> npt.NDArray[np.uint8]:
        """Return a copy of a slot's cells, valid until the next `save`: a new array would cost ten times the copy."""
        size = self.saved_size(slot)
        if size > len(self._state):
            self._state = np.empty(0, np.uint8)  # frees the old one first
            self._state = np.empty(size, np.uint8)
        self.save_into(slot, self._state[:size])
        return self._state[:size]

    def restore(self, slot: int, data: npt.NDArray[np.uint8]) -> None:
        """Restore saved cells into the lowest free ones, owned by `slot`, which must have none."""
        if L.llama_state_seq_set_data(self.handle, _as_bytes(data), len(data), slot) != len(data):
            raise DecodeError(f"restoring {len(data)} bytes into slot {slot} failed: {'; '.join(log_tail)}")


def _as_bytes(array: npt.NDArray[np.uint8]) -> Any:
    return ctypes.cast(array.ctypes.data, ctypes.POINTER(ctypes.c_uint8))
