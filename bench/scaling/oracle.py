"""Scalers that know the future: the oracle, and a constant number of replicas."""

from __future__ import annotations

import itertools
import math

import numpy as np

from bench.scaling.loads import Floats, Load
from bench.scaling.replicas import PROMPT_TOKEN_S
from bench.scaling.world import POOL_SEES_S, World

SLOT_S = 10.0


def busy_peaks(load: Load, slot_s: float = SLOT_S) -> Floats:
    """Return the most prompts that are read at once in each slot if none ever waits."""
    ends_s = load.at_s + PROMPT_TOKEN_S * load.prompt
    times = np.concatenate((load.at_s, ends_s))
    steps = np.concatenate((np.ones(len(load.at_s)), -np.ones(len(ends_s))))
    order = np.lexsort((steps, times))
    times, busy = times[order], np.cumsum(steps[order])
    slots = (times / slot_s).astype(int)
    peaks = np.zeros(slots[-1] + 1)
    np.maximum.at(peaks, slots, busy)
    carried = np.zeros_like(peaks)  # what is busy as a slot begins
    last = np.searchsorted(times, np.arange(len(peaks)) * slot_s, side="right") - 1
    carried[last >= 0] = busy[last[last >= 0]]
    return np.maximum(peaks, carried)


def cheapest_plan(least: Floats, start_s: float) -> Floats:
    """Return the replicas of each slot that cost least, with never fewer than `least`.

    Dynamic programming over slots: the k-th replica is needed or not in each slot, and a start costs `start_s`. As
    costs add up, the k-th replica's plan is its own, and from one slot that needs it to the next there are two ways:
    stay, which costs the time between, or stop and start again.
    """
    plan = np.zeros(len(least))
    for k in range(1, int(least.max()) + 1):
        needed = np.flatnonzero(least >= k)
        there = np.zeros(len(least), bool)
        there[needed] = True
        for one, next_ in itertools.pairwise(needed):
            if next_ - one > 1 and (next_ - one - 1) * SLOT_S <= start_s:
                there[one:next_] = True
        plan += there
    return plan


class Oracle:
    """Follows the cheapest plan, and starts replicas before they are needed.

    Args:
        load: What is going to arrive.
        start_s: Seconds of a start.
        margin: Factor to what is busy.
    """

    tick_s = SLOT_S / 10

    def __init__(self, load: Load, start_s: float, margin: float = 1.0, gap_s: float = 0.0) -> None:
        self.plan = cheapest_plan(np.maximum(1, np.ceil(busy_peaks(load) * margin)), max(start_s, gap_s))
        self.ahead_s = start_s + POOL_SEES_S + self.tick_s

    def wanted(self, world: World) -> int:
        """Return the most that is needed from now until one that starts now serves."""
        first, last = int(world.now / SLOT_S), int((world.now + self.ahead_s) / SLOT_S)
        if first >= len(self.plan):
            return 1
        return int(self.plan[first : last + 1].max())


class Delayed:
    """Knows what is needed, but only once it is: the most of the last `hold_s` times a margin.

    No policy that acts on what it has seen knows more of bursts that come at random.
    """

    tick_s = 1.0

    def __init__(self, load: Load, hold_s: float, margin: float) -> None:
        peaks, slots = busy_peaks(load, self.tick_s), int(hold_s / self.tick_s)
        windows = np.lib.stride_tricks.sliding_window_view(np.pad(peaks, (slots, 0), mode="edge"), slots + 1)
        self.plan = np.maximum(1, np.ceil(windows.max(axis=1) * margin))

    def wanted(self, world: World) -> int:
        """Return the most that was needed, as of the last second."""
        return int(self.plan[min(max(0, int(world.now / self.tick_s) - 1), len(self.plan) - 1)])


class Static:
    """Always the same number."""

    tick_s = 60.0

    def __init__(self, replicas: int) -> None:
        self.replicas = replicas

    def wanted(self, world: World) -> int:  # noqa: ARG002  # it knows nothing
        """Return it."""
        return self.replicas


def peak(load: Load) -> int:
    """Return the most replicas that are busy at any time."""
    return math.ceil(float(busy_peaks(load).max()))
