"""A replica in virtual time: slots, prompts read shortest first, streams that decode together, and their cost.

The rules are those of `skills/skill_draft/engine/scheduler.py`; between two events all rates are constant, so that an
hour of a hundred replicas takes seconds.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass, field

from core.scaling.samples import ReplicaLoad

# A step of the 4B on two cores: 48, 83, 135 and 255 ms over 1, 4, 8 and 16 rows (bench/README.md, "Kernels").
STEP_MS, ROW_MS = 34.0, 13.8
GAP_MS, QUIET_MS = 250.0, 1000.0
LEAST_ROWS = 4
SLOTS = 16
OLDEST = 0.25
ALIKE = 2.0


def step_ms(rows: float) -> float:
    """Return the cost of a step over this many rows."""
    return STEP_MS + ROW_MS * rows


GAP_ROWS = int((GAP_MS - STEP_MS) / ROW_MS)
QUIET_ROWS = int((QUIET_MS - STEP_MS) / ROW_MS)
PROMPT_TOKEN_S = step_ms(64) / 64 / 1000
OUTPUT_TOKEN_S = step_ms(GAP_ROWS) / GAP_ROWS / 1000


def _rates(decodes: int, reads: bool) -> tuple[float, float]:
    """Return tokens a second of prompts, and of each stream."""
    if not reads:
        return 0.0, 1000 / step_ms(decodes) if decodes else 0.0
    rows = max(LEAST_ROWS, GAP_ROWS - decodes) if decodes else QUIET_ROWS
    ms = step_ms(rows + decodes)
    return rows * 1000 / ms, 1000 / ms


RATES = {(decodes, reads): _rates(decodes, reads) for decodes in range(SLOTS + 1) for reads in (False, True)}


@dataclass(slots=True, eq=False)
class Request:
    """A call and what has become of it."""

    at_s: float
    prompt: int
    answer: int
    number: int = 0
    to_read: float = 0.0
    """Tokens that are still to be read."""
    own_s: float = 0.0
    """Time in which its prompt was read, counting a share of a replica as that share."""
    first_s: float = math.nan
    end_s: float = math.nan
    left: float = 0.0
    """Tokens that are still to be written."""
    moves: int = 0

    @property
    def wait_s(self) -> float:
        """Time to its first token without that of its own prompt."""
        return self.first_s - self.at_s - self.own_s


@dataclass(slots=True, eq=False)
class Replica:
    """A server with `SLOTS` slots, from the moment that it is asked for."""

    name: str
    asked_s: float
    speed: float = 1.0
    index: int = -1
    """Its place among the pool's replicas."""
    gone_s: float = math.nan
    draining: bool = False
    prompts: list[Request] = field(default_factory=list)
    """With a slot, oldest first."""
    streams: list[tuple[float, int, Request]] = field(default_factory=list)
    """A heap by the token at which they end."""
    queue: list[Request] = field(default_factory=list)
    at_s: float = 0.0
    tokens: float = 0.0
    """What each stream would have written since the start."""
    version: int = 0
    number: int = 0
    idle_since_s: float = 0.0
    arrived_s: float = 0.0
    done_s: float = 0.0
    requests: int = 0
    report: ReplicaLoad | None = None
    reported: int = -1

    @property
    def load(self) -> int:
        """Requests that it has."""
        return len(self.prompts) + len(self.streams) + len(self.queue)

    def advance(self, now: float) -> None:
        """Bring it to this time."""
        seconds = now - self.at_s
        self.at_s = now
        if seconds <= 0:
            return
        prompt_rate, stream_rate = RATES[len(self.streams), bool(self.prompts)]
        written = stream_rate * self.speed * seconds
        self.tokens += written
        self.done_s += OUTPUT_TOKEN_S * written * len(self.streams)
        if self.prompts:
            read = prompt_rate * self.speed * seconds
            self.done_s += PROMPT_TOKEN_S * read
            for request, share in self._shares():
                request.to_read -= share * read
                request.own_s += share * seconds

    def _shares(self) -> list[tuple[Request, float]]:
        oldest = self.prompts[0]
        if len(self.prompts) == 1:
            return [(oldest, 1.0)]
        shortest = min(self.prompts, key=lambda request: request.to_read)
        return [(oldest, 1.0)] if shortest is oldest else [(oldest, OLDEST), (shortest, 1.0 - OLDEST)]

    def next_s(self) -> float:
        """Return the seconds until something ends."""
        prompt_rate, stream_rate = RATES[len(self.streams), bool(self.prompts)]
        seconds = math.inf
        if self.streams:
            seconds = (self.streams[0][0] - self.tokens) / (stream_rate * self.speed)
        if self.prompts:
            rate = prompt_rate * self.speed
            seconds = min(seconds, *(request.to_read / (share * rate) for request, share in self._shares()))
        return max(0.0, seconds)

    def add(self, request: Request) -> None:
        """Take a request, now."""
        if not math.isnan(request.first_s):
            request.to_read = request.prompt + request.answer - request.left
        else:
            request.to_read, request.left = float(request.prompt), float(request.answer)
        self.requests += 1
        self.queue.append(request)
        self._fill()

    def _fill(self) -> None:
        while self.queue and len(self.prompts) + len(self.streams) < SLOTS:
            self.prompts.append(self.queue.pop(0))

    def finish(self, now: float) -> tuple[list[Request], list[Request]]:
        """Process what ends now; return the requests whose prompts are read, and those that are over."""
        read, over = [each for each in self.prompts if each.to_read <= 1e-6], []
        for request in read:
            self.prompts.remove(request)
            if math.isnan(request.first_s):
                request.first_s = now
            self.number += 1
            heapq.heappush(self.streams, (self.tokens + request.left, self.number, request))
        while self.streams and self.streams[0][0] <= self.tokens + 1e-6:
            request = heapq.heappop(self.streams)[2]
            request.end_s, request.left = now, 0.0
            over.append(request)
        if over:
            self._fill()
            if not self.load:
                self.idle_since_s = now
        return read, over

    def take_all(self) -> list[Request]:
        """Return what is unfinished, to go on elsewhere."""
        for end, _, request in self.streams:
            request.left = max(1.0, end - self.tokens)
        requests = [*self.prompts, *(request for _, _, request in self.streams), *self.queue]
        self.prompts, self.streams, self.queue = [], [], []
        for request in requests:
            request.moves += 1
        return requests

    def give(self, key: int) -> Request:
        """Return a request whose prompt is not read yet, to be read elsewhere."""
        place = self.prompts if any(each.number == key for each in self.prompts) else self.queue
        request = next(each for each in place if each.number == key)
        place.remove(request)
        request.moves += 1
        self._fill()
        return request

    def expected_wait_s(self, mean_prompt: float) -> float:
        """Return how long a prompt of this length would wait, as the engine's forecast has it."""
        rate = RATES[len(self.streams), True][0] * self.speed
        before = sum(each.to_read for each in self.prompts if each.to_read <= ALIKE * mean_prompt)
        if not self.queue and len(self.prompts) + len(self.streams) < SLOTS:
            return before / rate
        return (sum(each.to_read for each in self.prompts) + mean_prompt * len(self.queue)) / rate
