"""What queueing theory says about replicas and requests. Loads are in replicas, times in seconds."""

from __future__ import annotations

import math

BETA = 2.4
"""Deviations above the mean: with R + BETA * sqrt(R) replicas 1 % of requests find all busy (Halfin, Whitt 1981)."""


def staffing(load: float) -> float:
    """Return the replicas that an offered load needs so that hardly a request waits: square-root staffing."""
    return load + BETA * math.sqrt(load)


def forecast(busy: float, load: float, request_s: float, ahead_s: float, spread: float) -> float:
    """Return how many replicas will hardly all be busy a while ahead: mean and BETA deviations of M/G/infinity.

    A moment ahead that is what is busy now and a few more; further ahead, square-root staffing of the offered load.

    Args:
        busy: How many are busy now.
        load: Offered load.
        request_s: Mean work of a request.
        ahead_s: How far ahead.
        spread: Variance of the load: as large as itself if requests come at random, larger by `burstiness` if not.
    """
    stay = math.exp(-ahead_s / request_s)
    variance = (spread + busy * stay) * (1 - stay)
    return load + (busy - load) * stay + BETA * math.sqrt(variance)


def predicted_wait_s(replicas: int, load: float, request_s: float) -> float:
    """Return the mean wait of requests at this many replicas: Sakasegawa's approximation of M/M/n."""
    if load <= 0 or request_s <= 0:
        return 0.0
    if load >= replicas:
        return math.inf
    busy = load / replicas
    return float(request_s * busy ** (math.sqrt(2 * (replicas + 1)) - 1) / (replicas * (1 - busy)))


def burstiness(windows: int, requests: int, squares: int) -> float:
    """Return variance over mean of the requests in a window, at least 1: 1 if they come at random, more in bursts.

    Args:
        windows: How many windows were looked at.
        requests: The requests in all of them.
        squares: The same numbers squared, in all of them.
    """
    return max(1.0, (squares - requests * requests / windows) / requests) if requests else 1.0
