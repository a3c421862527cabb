"""GGUF files: which types their matrices have, and conversion to Q8_0."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from pathlib import Path

from .binding import L, ModelError, log_tail

_TYPES: dict[int, str] = {
    value: name.removeprefix("GGML_TYPE_") for name, value in vars(L).items() if name.startswith("GGML_TYPE_")
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """A tensor of a file: its type, and where its bytes begin."""

    name: str
    type: int
    """ggml's number of it."""
    rows: int
    """Its second dimension; 1 for a vector."""
    offset: int

    @property
    def type_name(self) -> str:
        """The type's name, like `Q8_0`."""
        return _TYPES.get(self.type, "?")


class _InitParams(ctypes.Structure):
    _fields_ = (("no_alloc", ctypes.c_bool), ("ctx", ctypes.c_void_p))


def tensors(path: Path) -> list[Tensor]:
    """Return the tensors of a GGUF file.

    Raises:
        ModelError: The file cannot be read or is not a GGUF; the library's own error would not tell which.
    """
    try:
        path.open("rb").close()
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from error
    base = L._lib  # noqa: SLF001 - the bindings lack these functions
    base.gguf_init_from_file.restype = ctypes.c_void_p
    base.gguf_init_from_file.argtypes = [ctypes.c_char_p, _InitParams]
    base.gguf_free.argtypes = base.gguf_get_n_tensors.argtypes = base.gguf_get_data_offset.argtypes = [ctypes.c_void_p]
    for name, result in (
        ("name", ctypes.c_char_p), ("type", ctypes.c_int), ("ne", ctypes.POINTER(ctypes.c_int64)),
        ("offset", ctypes.c_size_t),
    ):  # fmt: skip
        function = getattr(base, f"gguf_get_tensor_{name}")
        function.restype, function.argtypes = result, [ctypes.c_void_p, ctypes.c_int64]
    base.gguf_get_n_tensors.restype, base.gguf_get_data_offset.restype = ctypes.c_int64, ctypes.c_size_t
    gguf = base.gguf_init_from_file(str(path).encode(), _InitParams(True, None))
    if not gguf:
        raise ModelError(f"{path} is not a GGUF file that this llama.cpp can read")
    try:
        data = base.gguf_get_data_offset(gguf)
        return [
            Tensor(
                name=base.gguf_get_tensor_name(gguf, i).decode("utf-8", "replace"),
                type=base.gguf_get_tensor_type(gguf, i),
                rows=base.gguf_get_tensor_ne(gguf, i)[1],
                offset=data + base.gguf_get_tensor_offset(gguf, i),
            )
            for i in range(base.gguf_get_n_tensors(gguf))
        ]
    finally:
        base.gguf_free(gguf)


def tensor_types(path: Path) -> set[str]:
    """Return the types of a GGUF's matrices (tensors of two dimensions or more), like `{"IQ4_NL", "Q6_K"}`.

    Raises:
        ModelError: as above.
    """
    return {tensor.type_name for tensor in tensors(path) if tensor.rows > 1}


def requantize(source: Path, target: Path) -> None:
    """Convert a quantised model to Q8_0; raise `ModelError` if llama.cpp fails."""
    params = L.llama_model_quantize_default_params()
    params.ftype, params.allow_requantize = L.LLAMA_FTYPE_MOSTLY_Q8_0, True
    if L.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(params)):
        raise ModelError(f"llama.cpp cannot write {source.name} in Q8_0: {'; '.join(log_tail) or 'no reason given'}")
