"""What queueing theory says about replicas and requests. Loads are in replicas, times in seconds."""

from __future__ import annotations

import math
from collections.abc import Sequence

BETA = 2.4
"""Deviations above the mean: with R + BETA * sqrt(R) replicas 1 % of requests find all busy (Halfin, Whitt 1981)."""


def staffing(load: float) -> float:
    """Return the replicas that an offered load needs so that hardly a request waits: square-root staffing."""
    return load + BETA * math.sqrt(load)


def forecast(busy: float, load: float, request_s: float, ahead_s: float, bursts: float = 1.0) -> float:
    """Return how many replicas will hardly all be busy a while ahead: mean and BETA deviations of M/G/infinity.

    A moment ahead that is what is busy now and a few more; further ahead, square-root staffing of the offered load.

    Args:
        busy: How many are busy now.
        load: Offered load.
        request_s: Mean work of a request.
        ahead_s: How far ahead.
        bursts: `burstiness` of the arrivals.
    """
    stay = math.exp(-ahead_s / request_s)
    variance = (load * bursts + busy * stay) * (1 - stay)
    return load + (busy - load) * stay + BETA * math.sqrt(variance)


def predicted_wait_s(replicas: int, load: float, request_s: float) -> float:
    """Return the mean wait of requests at this many replicas: Sakasegawa's approximation of M/M/n."""
    if load <= 0 or request_s <= 0:
        return 0.0
    if load >= replicas:
        return math.inf
    busy = load / replicas
    return float(request_s * busy ** (math.sqrt(2 * (replicas + 1)) - 1) / (replicas * (1 - busy)))


def burstiness(requests: Sequence[tuple[float, int]], window_s: float) -> float:
    """Return variance over mean of the requests in a window, at least 1: 1 if they come at random, more in bursts.

    Args:
        requests: Times, ascending, and how many there had been by then.
        window_s: The window's length.
    """
    numbers, begin = [], 0
    for at_s, number in requests:
        while requests[begin][0] < at_s - window_s:
            begin += 1
        if at_s - window_s >= requests[0][0]:
            numbers.append(number - requests[begin][1])
    total = sum(numbers)
    if not total:
        return 1.0
    mean = total / len(numbers)
    return max(1.0, sum((number - mean) ** 2 for number in numbers) / total)
