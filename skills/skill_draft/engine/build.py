"""The loaded build of llama.cpp: its CPU features and kernels, whether it can be exact, and why it may be slow."""

from __future__ import annotations

import ctypes
import re

from .binding import L
from .mapped import mapped_files

_CPU = 0  # of `enum ggml_backend_dev_type`


def system_info() -> str:
    """Return the CPU features that the library uses, as llama.cpp prints them: `CPU : AVX2 = 1 | FMA = 1 | …`."""
    return str(L.llama_print_system_info().decode())


def has_our_kernels() -> bool:
    """Return whether llama.cpp uses this project's kernels (`kernels/`): on x86 with AVX2, in our own build."""
    return our_buffer_type() is not None


def our_buffer_type() -> int | None:
    """Return the address of the buffer type that packs matrices for our kernels; None if they are not used."""
    lib = L._lib  # noqa: SLF001 - the bindings lack these functions
    lib.ggml_backend_dev_by_type.restype = lib.ggml_backend_dev_backend_reg.restype = ctypes.c_void_p
    lib.ggml_backend_reg_get_proc_address.restype = ctypes.c_void_p
    lib.ggml_backend_buft_name.restype = ctypes.c_char_p
    device = ctypes.c_void_p(lib.ggml_backend_dev_by_type(_CPU))
    registry = ctypes.c_void_p(lib.ggml_backend_dev_backend_reg(device))
    address = lib.ggml_backend_reg_get_proc_address(registry, b"ggml_backend_dev_get_extra_bufts")
    first: int | None = ctypes.CFUNCTYPE(ctypes.POINTER(ctypes.c_void_p), ctypes.c_void_p)(address)(device)[0]
    return first if first and lib.ggml_backend_buft_name(ctypes.c_void_p(first)) == b"SARAi" else None


def cpu_library() -> ctypes.CDLL:
    """Return the library with our kernels that llama.cpp uses, for functions that it does not announce.

    Raises:
        RuntimeError: It uses none.
    """
    if (buffer_type := our_buffer_type()) is None:
        raise RuntimeError("llama.cpp does not use this project's kernels")
    # A buffer type begins with a pointer to one of the library's functions. Other variants may be loaded as well.
    function = ctypes.c_void_p.from_address(buffer_type).value or 0
    path = next(path for path, spans in mapped_files().items() for begin, end in spans if begin <= function < end)
    return ctypes.CDLL(path)


def why_not_exact(system_info: str) -> str:
    """Return why this build cannot be exact and what to do about it; empty if it can.

    Args:
        system_info: The loaded library's `llama_print_system_info`, like `AVX512 = 1 | AMX_INT8 = 1 | …`.
    """
    if re.search(r"\bAMX_INT8 = 1\b", system_info):
        return (
            "this llama.cpp was compiled with AMX, whose kernels give an answer other bits in another batch; "
            "`make setup` compiles one without it, and so does `python3 -m tools.llama_wheel`"
        )
    return ""


def why_slower(system_info: str, *, ours: bool) -> str:
    """Return why this build is slower than it could be here, and what to do; empty if it is not.

    Args:
        system_info: as above.
        ours: whether it computes with this project's kernels, which x86 CPUs with AVX2 can run.
    """
    if ours or not re.search(r"\bAVX2 = 1\b", system_info):
        return ""
    return (
        "this llama.cpp was compiled without the kernels of this project and is slower; `make setup` and `uv sync` "
        "compile one with them, and so does `python3 -m tools.llama_wheel`"
    )
