"""Time calls in turn, so that what changes on the machine meanwhile changes all of them.

Every other round goes the other way round, as a call may leave something behind for the next one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence


def in_turn(calls: Sequence[Callable[[], object]], rounds: int, *, warm_up: int) -> list[list[float]]:
    """Return the times of each call, in milliseconds, sorted.

    Args:
        calls: What to time.
        rounds: How often.
        warm_up: Rounds before that, which do not count.
    """
    times: list[list[float]] = [[] for _ in calls]
    for number in range(warm_up + rounds):
        for call, own in tuple(zip(calls, times, strict=True))[:: 1 if number % 2 else -1]:
            begin = time.perf_counter()
            call()
            if number >= warm_up:
                own.append((time.perf_counter() - begin) * 1000)
    return [sorted(own) for own in times]
