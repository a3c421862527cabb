"""GGUF files: which types their matrices have, and conversion to Q8_0."""

from __future__ import annotations

import ctypes
from pathlib import Path

from .binding import L, ModelError, log_tail

_TYPES: dict[int, str] = {
    value: name.removeprefix("GGML_TYPE_") for name, value in vars(L).items() if name.startswith("GGML_TYPE_")
}


def tensor_types(path: Path) -> set[str]:
    """Return the types of a GGUF's matrices (tensors of two dimensions or more), like `{"IQ4_NL", "Q6_K"}`.

    Raises:
        ModelError: The file cannot be read or is not a GGUF; the library's own error would not tell which.
    """
    try:
        path.open("rb").close()
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from error

    class InitParams(ctypes.Structure):
        _fields_ = [("no_alloc", ctypes.c_bool), ("ctx", ctypes.c_void_p)]

    base = L._lib  # noqa: SLF001 - the bindings lack these functions
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
        return {_TYPES.get(base.gguf_get_tensor_type(gguf, i), "?") for i in matrices}
    finally:
        base.gguf_free(gguf)


def requantize(source: Path, target: Path) -> None:
    """Convert a quantised model to Q8_0; raise `ModelError` if llama.cpp fails."""
    params = L.llama_model_quantize_default_params()
    params.ftype, params.allow_requantize = L.LLAMA_FTYPE_MOSTLY_Q8_0, True
    if L.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(params)):
        raise ModelError(f"llama.cpp cannot write {source.name} in Q8_0: {'; '.join(log_tail) or 'no reason given'}")
