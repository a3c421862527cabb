"""Quantised blocks of weights in ggml's layout (`ggml-common.h`, `ggml-quants.c`), for the few cases needed here.

The `gguf` package reads these types but does not write them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]

IQ4_NL_BLOCK, IQ4_NL_BYTES = 32, 18
Q8_0_BLOCK, Q8_0_BYTES = 32, 34
K_BLOCK, Q5_K_BYTES, Q6_K_BYTES = 256, 176, 210
IQ4_NL_LARGEST = 113.0  # value of index 15; index 8 is 1, the type's value nearest to zero
_Q5_LARGEST = 15.0  # of the four low bits, the only ones used here


def _half(value: float) -> Bytes:
    return np.array([value], np.float16).view(np.uint8)


def random_iq4_nl(rng: np.random.Generator, rows: int, columns: int, scale: float) -> Bytes:
    """Return random weights between -127 and 113 times `scale`."""
    blocks = columns // IQ4_NL_BLOCK
    data = rng.integers(0, 256, (rows, blocks, IQ4_NL_BYTES), np.uint8)
    data[..., :2] = _half(scale)
    return data.reshape(rows, -1)


def random_q8_0(rng: np.random.Generator, rows: int, columns: int, scale: float) -> Bytes:
    """Return random weights between -128 and 127 times `scale`."""
    data = rng.integers(0, 256, (rows, columns // Q8_0_BLOCK, Q8_0_BYTES), np.uint8)
    data[..., :2] = _half(scale)
    return data.reshape(rows, -1)


def random_q5_k(rng: np.random.Generator, rows: int, columns: int, scale: float) -> Bytes:
    """Return random weights; the two factors of a block are `scale` and 0."""
    data = rng.integers(0, 256, (rows, columns // K_BLOCK, Q5_K_BYTES), np.uint8)
    data[..., :2], data[..., 2:4] = _half(scale), 0
    return data.reshape(rows, -1)


def single_iq4_nl(rows: int, columns: int, gains: dict[tuple[int, int], float]) -> Bytes:
    """Return a matrix with these entries. The rest of an entry's block of 32 has 1/113 of its value, all else is 0."""
    data = np.zeros((rows, columns // IQ4_NL_BLOCK, IQ4_NL_BYTES), np.uint8)
    for (row, column), gain in gains.items():
        block, at = divmod(column, IQ4_NL_BLOCK)
        half, byte = divmod(at, 16)
        data[row, block, :2] = _half(gain / IQ4_NL_LARGEST)
        data[row, block, 2:] = 0x88
        data[row, block, 2 + byte] = 0xF8 if half else 0x8F
    return data.reshape(rows, -1)


def single_q5_k(rows: int, columns: int, gains: dict[tuple[int, int], float]) -> Bytes:
    """Return a matrix with these entries, which must be positive, and 0 elsewhere."""
    data = np.zeros((rows, columns // K_BLOCK, Q5_K_BYTES), np.uint8)
    for (row, column), gain in gains.items():
        block, at = divmod(column, K_BLOCK)
        chunk, within = divmod(at, 64)
        high, byte = divmod(within, 32)
        cell: Any = data[row, block]
        cell[:2] = _half(gain / _Q5_LARGEST)
        cell[4:8], cell[12:16] = 1, 1  # the scales of the eight groups; their minima are 0
        cell[48 + 32 * chunk + byte] = 0xF0 if high else 0x0F
    return data.reshape(rows, -1)


def q6_k(values: npt.NDArray[np.int8], scales: npt.NDArray[np.int8], factor: float) -> Bytes:
    """Pack integers of -32 to 31.

    Args:
        values: Shape (rows, columns).
        scales: Shape (columns / 16,), one for each 16 neighbours.
        factor: Common factor of all weights.

    Returns:
        Weights values * scales * factor, of shape (rows, columns / 256 * 210).
    """
    rows, columns = values.shape
    q = (values + 32).astype(np.uint8).reshape(rows, columns // K_BLOCK, 2, 4, 32)
    data = np.empty((rows, columns // K_BLOCK, Q6_K_BYTES), np.uint8)
    low, high = q & 0xF, q >> 4
    data[..., :128] = (low[..., :2, :] | (low[..., 2:, :] << 4)).reshape(rows, -1, 128)
    shifts = np.array([0, 2, 4, 6], np.uint8)[:, None]
    data[..., 128:192] = np.bitwise_or.reduce(high << shifts, axis=3).reshape(rows, -1, 64)
    data[..., 192:208] = scales.view(np.uint8).reshape(columns // K_BLOCK, 16)
    data[..., 208:] = _half(factor)
    return data.reshape(rows, -1)
