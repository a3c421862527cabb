"""What the build of llama.cpp at hand means for its numerics and its speed."""

from __future__ import annotations

import re


def why_not_exact(system_info: str) -> str:
    """Why this build cannot be exact, and what to do; empty if it can.

    Args:
        system_info: what `llama_print_system_info` says of the library that is loaded: `AVX512 = 1 | AMX_INT8 = 1 | …`.
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
