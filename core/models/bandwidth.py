"""Measure memory bandwidth, which bounds the speed of a single answer."""

from __future__ import annotations

import ctypes
import mmap
import time
from concurrent.futures import ThreadPoolExecutor

_BYTES = 512 << 20
"""Total size of the blocks: more than caches hold."""
_LEAST_BYTES = 16 << 20
_ROUNDS = 3


def measure_bandwidth(threads: int, most_bytes: int = _BYTES) -> float:
    """Return the bytes a second that this many threads read from memory together, measured for half a second.

    Args:
        threads: Number of threads.
        most_bytes: Maximum memory to allocate.
    """
    each = max(_LEAST_BYTES, min(_BYTES, most_bytes) // threads)
    # C's memchr reads at the speed of memory, and ctypes releases Python's lock during the call.
    search = ctypes.CDLL(None).memchr
    search.argtypes, search.restype = (ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t), ctypes.c_void_p
    blocks = [mmap.mmap(-1, each) for _ in range(threads)]
    held = [ctypes.c_char.from_buffer(block) for block in blocks]
    places = [ctypes.addressof(first) for first in held]
    for place in places:
        ctypes.memset(place, 1, each)  # pages never written share one zero page
    best_s = float("inf")
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(_ROUNDS):
            begin = time.perf_counter()
            list(pool.map(lambda place: search(place, 2, each), places))
            best_s = min(best_s, time.perf_counter() - begin)
    del held
    for block in blocks:
        block.close()
    return threads * each / best_s
