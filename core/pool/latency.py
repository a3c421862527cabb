"""A replica's latency averages, compared with the others'."""

from __future__ import annotations

import math
from collections.abc import Iterable

FORGOTTEN_S = 30.0
CLEARLY_SLOWER = 2.0
"""Up to this factor a replica counts as equally fast, as different prompts cause as much noise."""
LEAST_WAIT_S = 0.1
"""A shorter silence means nothing: a step of the model or another thread can cause it."""
_WEIGHT = 0.3


class LatencyAverage:
    """A replica's latency averages over its last calls of one method."""

    def __init__(self) -> None:
        self._seconds = self._tokens = 0.0
        self._waits_s = self._calls = 0.0
        self._noted_s = 0.0

    def note(self, seconds: float, tokens: int, wait_s: float, now: float) -> None:
        """Record a call that has ended there or was taken from it.

        Args:
            seconds: Its duration.
            tokens: How many tokens came in that time.
            wait_s: The longest silence, in seconds.
            now: Seconds on the monotonic clock.
        """
        keep = 1.0 - _WEIGHT
        # Seconds and tokens are averaged separately, so that an answer of one token, which is mostly prefill, does not
        # weigh as much as one of a hundred.
        self._seconds = keep * self._seconds + seconds
        self._tokens = keep * self._tokens + max(1, tokens)
        self._waits_s = keep * self._waits_s + wait_s
        self._calls = keep * self._calls + 1
        self._noted_s = now

    @property
    def token_s(self) -> float:
        """Seconds for a token, including prefill."""
        return self._seconds / self._tokens if self._tokens else math.inf

    @property
    def wait_s(self) -> float:
        """The longest silence in a call, in seconds: mostly the time to the first piece."""
        return self._waits_s / self._calls if self._calls else math.inf

    def slower(self, fastest: Fastest, silent_s: float, now: float) -> float:
        """Return how many times as long as the fastest it takes; 1 if it is as fast.

        Past slowness decays, so that a slow replica is tried again; a current silence counts fully.

        Args:
            fastest: The best figures of the eligible replicas.
            silent_s: How long a running call has been silent, in seconds.
            now: Seconds on the monotonic clock.
        """
        was = self.token_s / fastest.token_s if self._tokens and fastest.token_s > 0 else 1.0
        was = 1.0 + (was - 1.0) * math.exp((self._noted_s - now) / FORGOTTEN_S)
        # Before any replica has answered, there is nothing to compare a silence with.
        is_ = silent_s / max(fastest.wait_s, LEAST_WAIT_S)
        slower = max(was, is_)
        return slower if slower > CLEARLY_SLOWER else 1.0


class Fastest:
    """The best figures of several replicas."""

    def __init__(self, averages: Iterable[LatencyAverage]) -> None:
        averages = list(averages)
        self.token_s = min((average.token_s for average in averages), default=math.inf)
        self.wait_s = min((average.wait_s for average in averages), default=math.inf)
