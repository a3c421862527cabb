"""What the build of llama.cpp at hand means for its numerics."""

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
