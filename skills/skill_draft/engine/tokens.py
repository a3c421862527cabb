"""Arrays of tokens and of what is computed from them.

Ids of text tokens are the vocabulary's. An image is a run of negative ids, each one less than the one before it
(`images.py`); two runs are never adjacent numbers, so where one image ends is always seen.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]
Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Embedded:
    """The input of a step with images: what llama.cpp would look up for tokens, and what the vision tower gave."""

    rows: Floats
    """Shape (n_rows, n_embd_inp)."""
    positions: Ints
    """Shape (4, n_rows): time, row, column, nothing."""


def common_length(a: Ints, b: Ints) -> int:
    """Return the length of the longest common prefix of two lists of tokens."""
    n = min(len(a), len(b))
    differ = a[:n] != b[:n]
    first = int(differ.argmax()) if n else 0
    return first if n and differ[first] else n


def image_border(tokens: Ints, n: int) -> int:
    """Return `n`, or where the image begins that a cut after `n` tokens would divide.

    The cells of an image cannot be told apart by position, so llama.cpp shares and frees all of them or none.
    """
    if not 0 < n < len(tokens) or tokens[n] >= 0 or tokens[n - 1] != tokens[n] + 1:
        return n
    breaks = np.flatnonzero(np.diff(tokens[:n]) != -1)
    return int(breaks[-1]) + 1 if len(breaks) else 0
