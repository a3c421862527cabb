"""What others scale by: Kubernetes' HPA, Knative's KPA, Ray Serve's autoscaler. Their rules, from their documents.

All get the same replicas, the same pool and the same drain as ours, which is better than what they come with.
"""

from __future__ import annotations

import math
from collections import deque

from bench.scaling.replicas import Replica
from bench.scaling.world import World

TOLERANCE = 0.1


class _Window:
    """Values with their times, and their mean over the last seconds."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.values: deque[tuple[float, float]] = deque()

    def add(self, now: float, value: float) -> None:
        self.values.append((now, value))
        while self.values[0][0] < now - self.seconds:
            self.values.popleft()

    @property
    def mean(self) -> float:
        return sum(value for _, value in self.values) / len(self.values)

    @property
    def largest(self) -> float:
        return max(value for _, value in self.values)


def requests(world: World) -> int:
    """Return the requests that are in the system."""
    return sum(each.load for each in world.serving) + len(world.line)


class HPA:
    """Kubernetes' HorizontalPodAutoscaler: every 15 s, ceil(n x metric / target), down by the highest wish of 300 s.

    Args:
        target: What a replica is to have: a share of its CPU, or requests.
        by_cpu: Whether it looks at CPUs. A replica's threads spin as long as it has any request.
    """

    tick_s = 15.0

    def __init__(self, target: float, *, by_cpu: bool) -> None:
        self.target, self.by_cpu = target, by_cpu
        self._wishes = _Window(300.0)

    def wanted(self, world: World) -> int:
        """Return its wish."""
        serving, there = len(world.serving), len(world.serving) + len(world.starting)
        if not serving:
            return max(1, there)
        total = sum(self._busy(each, world.now) for each in world.serving) if self.by_cpu else float(requests(world))
        ratio = total / serving / self.target
        wish = there
        if ratio > 1 + TOLERANCE:  # replicas that are not ready count as idle on the way up
            ratio = total / there / self.target
            wish = max(there, math.ceil(there * ratio)) if ratio > 1 + TOLERANCE else there
        elif ratio < 1 - TOLERANCE:
            wish = math.ceil(serving * ratio)
        wish = min(wish, max(2 * there, there + 4))
        self._wishes.add(world.now, wish)
        return max(1, wish if wish > there else min(there, int(self._wishes.largest)))

    def _busy(self, replica: Replica, now: float) -> float:
        """Return the share of the last 15 s in which it had requests, as far as its present state tells."""
        if replica.load:
            return 1.0
        return max(0.0, 1.0 - (now - replica.idle_since_s) / self.tick_s)


class KPA:
    """Knative's: every 2 s the mean concurrency over 60 s, or over 6 s if that asks for twice what is there."""

    tick_s = 2.0

    def __init__(self, target: float) -> None:
        self.target = target
        self._stable, self._panic = _Window(60.0), _Window(6.0)
        self._panics_until_s, self._most = -math.inf, 0

    def wanted(self, world: World) -> int:
        """Return its wish."""
        now, ready = world.now, max(1, len(world.serving))
        for window in (self._stable, self._panic):
            window.add(now, requests(world))
        stable, panic = (math.ceil(window.mean / self.target) for window in (self._stable, self._panic))
        if panic / ready >= 2.0:
            if now >= self._panics_until_s:
                self._most = 0
            self._panics_until_s = now + 60.0
        if now < self._panics_until_s:
            self._most = max(self._most, stable, panic)
            return max(1, self._most)
        return max(1, stable, ready // 2)


class Ray:
    """Ray Serve's: the mean of ongoing requests over 30 s; up after 30 s of it, down after 600 s."""

    tick_s = 1.0

    def __init__(self, target: float, *, up_s: float = 30.0, down_s: float = 600.0) -> None:
        self.target, self.up_s, self.down_s = target, up_s, down_s
        self._window = _Window(30.0)
        self._since: tuple[int, float] = (0, 0.0)

    def wanted(self, world: World) -> int:
        """Return its wish."""
        now, there = world.now, len(world.serving) + len(world.starting)
        self._window.add(now, requests(world))
        wish = max(1, math.ceil(self._window.mean / self.target))
        way = (wish > there) - (wish < there)
        if way != self._since[0]:
            self._since = (way, now)
        if not way or now - self._since[1] < (self.up_s if way > 0 else self.down_s):
            return max(1, there)
        self._since = (0, now)
        return wish
