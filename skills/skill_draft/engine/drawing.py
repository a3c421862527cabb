"""Draw a token from logits by top-k, top-p, min-p and temperature, with llama.cpp's definitions and order.

llama.cpp's own samplers sort the vocabulary, which takes 0.2 to 3 ms a token; this takes 0.03 ms. Few tokens are likely
enough to be drawn, so only those within a margin below the best logit are examined. The margin grows until no token
outside it can survive the filters.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from .messages import Sampling
from .tokens import Floats

_MARGINS = (4.0, 8.0, 12.0, 16.0, 24.0, math.inf)
_BLOCK = 1024


def draw(logits: Floats, best: int, log_total: float, sampling: Sampling, u: float) -> int:
    """Draw the token that the random number `u` selects; at temperature 0, the likeliest.

    Args:
        logits: Shape (n_vocab,); minus infinity for tokens that are not allowed.
        best: The token with the largest logit.
        log_total: The logarithm of the sum of the logits' exponentials.
        sampling: The request's sampling settings.
        u: A random number in [0, 1).

    Returns:
        The token's id.
    """
    top = float(logits[best])
    total = math.exp(log_total - top)
    if not sampling.temperature or 1 / total >= sampling.top_p:
        return best
    if not (sampling.top_k or sampling.min_p or sampling.top_p < 1):
        return _draw_from_all(logits, top, sampling.temperature, u)
    for margin in _MARGINS:
        ids = (logits >= top - margin).nonzero()[0] if margin < math.inf else np.isfinite(logits).nonzero()[0]
        values = logits[ids]
        # Stable, so that among equals the lower id comes first, whatever the margin.
        order = (-values).argsort(kind="stable")
        values = values[order].astype(np.float64)
        values -= values[0]
        if left := _num_surviving(np.exp(values), sampling, total, math.exp(-margin)):
            shares = np.exp(values[:left] / sampling.temperature).cumsum()
            at = int(shares.searchsorted(u * shares[-1], side="right"))
            return int(ids[order[min(at, left - 1)]])
    raise AssertionError("with all tokens examined, one survives")


def _num_surviving(weights: npt.NDArray[np.float64], sampling: Sampling, total: float, below: float) -> int:
    """Return how many of the best tokens survive the filters; 0 if that depends on tokens outside the margin.

    Args:
        weights: Probabilities of the tokens within the margin, relative to the largest, descending.
        sampling: The request's sampling settings.
        total: The sum of the relative probabilities of all tokens.
        below: An upper bound of the relative probability of every other token; 0 if there are no others.
    """
    n, k = len(weights), sampling.top_k or math.inf
    least = most = min(n, k)  # bounds on the survivors, tokens outside the margin included
    if n < k and below:
        most = k
    if sampling.top_p < 1:
        reached = weights[: int(least)].cumsum()
        mass = float(reached[-1])
        most_mass = mass if most == least else min(total, mass + (k - n) * below)
        least, most = (int(i) + 1 for i in reached.searchsorted((sampling.top_p * mass, sampling.top_p * most_mass)))
    if sampling.min_p > 0:
        probable = int((weights >= sampling.min_p).sum())
        if probable < n or not below:
            least, most = min(least, probable), min(most, probable)
    return int(least) if least == most and least <= n else 0


def _draw_from_all(logits: Floats, top: float, temperature: float, u: float) -> int:
    """Draw from the whole vocabulary: find the block first, then the token in it."""
    weights = np.exp((logits - np.float32(top)) * np.float32(1 / temperature))
    blocks = np.cumsum(np.add.reduceat(weights, np.arange(0, len(weights), _BLOCK)), dtype=np.float64)
    wanted = u * blocks[-1]
    block = min(int(np.searchsorted(blocks, wanted, side="right")), len(blocks) - 1)
    before = float(blocks[block - 1]) if block else 0.0
    begin = block * _BLOCK
    inside = np.cumsum(weights[begin : begin + _BLOCK], dtype=np.float64)
    at = int(np.searchsorted(inside, wanted - before, side="right"))
    # The two sums differ in their last digits, so stop at the last token with any probability.
    last = int(np.flatnonzero(weights[begin : begin + _BLOCK])[-1])
    return begin + min(at, last)
