"""The random numbers of an answer: functions of its request's seed. The server knows them too, and imports no numpy."""

from __future__ import annotations

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15


def uniform(seed: int, k: int) -> float:
    """Return the k-th random number of a seed, in [0, 1). SplitMix64 (Steele, Lea and Flood 2014) has random access."""
    z = (seed * 0xD1342543DE82EF95 + (k + 1) * _GOLDEN) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return ((z ^ (z >> 31)) >> 11) * 2.0**-53


def candidate_seed(seed: int, candidate: int) -> int:
    """Return the seed of a request's i-th candidate; the first uses the request's own, as a single answer does."""
    return seed if candidate == 0 else (seed + candidate * _GOLDEN) & _MASK
