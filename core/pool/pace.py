"""How fast a replica answers, compared with the others."""

from __future__ import annotations

import math
from collections.abc import Iterable

FORGOTTEN_S = 30.0
CLEARLY_SLOWER = 2.0
"""Up to this factor a replica counts as just as fast: that is the noise of different prompts."""
LEAST_WAIT_S = 0.1
"""A shorter silence says nothing: that is a step of a model, or the turn of another thread."""
_WEIGHT = 0.3


class Pace:
    """A replica's averages over its last calls of one method."""

    def __init__(self) -> None:
        self._seconds = self._tokens = 0.0
        self._waits_s = self._calls = 0.0
        self._noted_s = 0.0

    def note(self, seconds: float, tokens: int, wait_s: float, now: float) -> None:
        """Learn from a call that has ended there, or was taken from it.

        Args:
            seconds: how long it took.
            tokens: how many came in that time.
            wait_s: the longest time without news, seconds.
            now: on the monotonic clock.
        """
        keep = 1.0 - _WEIGHT
        # Seconds and tokens each for themselves: an answer of one token, which is mostly prompt, must not weigh as much
        # as one of a hundred.
        self._seconds = keep * self._seconds + seconds
        self._tokens = keep * self._tokens + max(1, tokens)
        self._waits_s = keep * self._waits_s + wait_s
        self._calls = keep * self._calls + 1
        self._noted_s = now

    @property
    def token_s(self) -> float:
        """Seconds for a token, those for the prompt included."""
        return self._seconds / self._tokens if self._tokens else math.inf

    @property
    def wait_s(self) -> float:
        """The longest time in a call without news, seconds: mostly that before the first piece."""
        return self._waits_s / self._calls if self._calls else math.inf

    def slower(self, fastest: Fastest, silent_s: float, now: float) -> float:
        """How many times as long it takes as the fastest, 1 where it is as fast.

        That is forgotten, so that a replica that was slow is tried again; a silence that goes on counts as it is.

        Args:
            fastest: of the replicas that are chosen from.
            silent_s: how long it has been silent in a call that runs, seconds.
            now: on the monotonic clock.
        """
        was = self.token_s / fastest.token_s if self._tokens and fastest.token_s > 0 else 1.0
        was = 1.0 + (was - 1.0) * math.exp((self._noted_s - now) / FORGOTTEN_S)
        # Before anybody has answered there is nothing to measure a silence by.
        is_ = silent_s / max(fastest.wait_s, LEAST_WAIT_S)
        slower = max(was, is_)
        return slower if slower > CLEARLY_SLOWER else 1.0


class Fastest:
    """The best figures of several replicas."""

    def __init__(self, paces: Iterable[Pace]) -> None:
        paces = list(paces)
        self.token_s = min((pace.token_s for pace in paces), default=math.inf)
        self.wait_s = min((pace.wait_s for pace in paces), default=math.inf)
