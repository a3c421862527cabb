"""GGUF files: which types their matrices have, and conversion to Q8_0."""

from __future__ import annotations

import ctypes
from pathlib import Path

from skills.gguf import GgufError, Tensor, read_gguf

from .binding import L, ModelError, log_tail


def tensors(path: Path) -> tuple[Tensor, ...]:
    """Return the tensors of a GGUF file.

    Raises:
        ModelError: The file cannot be read or is not a GGUF; the library's own error would not tell which.
    """
    try:
        return read_gguf(path).tensors
    except GgufError as error:
        raise ModelError(str(error)) from error


def requantize(source: Path, target: Path) -> None:
    """Convert a quantised model to Q8_0; raise `ModelError` if llama.cpp fails."""
    params = L.llama_model_quantize_default_params()
    params.ftype, params.allow_requantize = L.LLAMA_FTYPE_MOSTLY_Q8_0, True
    if L.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(params)):
        raise ModelError(f"llama.cpp cannot write {source.name} in Q8_0: {'; '.join(log_tail) or 'no reason given'}")
