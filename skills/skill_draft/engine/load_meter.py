"""Measure how much work an engine has, in seconds of its own time, for whatever chooses the number of replicas.

Numbers of requests say little: the work of one varies by far more than its mean, nearly all of it is the prompt, and
the prefix cache removes that. So each request counts by its tokens, at the costs that the engine has learned.
"""

from __future__ import annotations

from itertools import chain

import numpy as np

from .cells import CellLog
from .config import Load
from .costs import StepCosts
from .scheduler import ALIKE, Scheduler
from .sequence import Sequence
from .threads import Threads
from .tokens import common_length
from .waiting import WaitEstimate

# A token of a prompt costs what a row of a step of this many rows costs; in larger steps it costs about as much.
_PROMPT_ROWS = 64
_ANY_LENGTH = 1 << 30
_NEWEST = 0.2  # weight of the newest prompt in the mean


class LoadMeter:
    """Counts the work that arrives and that is done, and sums up what is ahead.

    Counters hold tokens until these have a price: before the first step, costs are only assumed.
    """

    def __init__(
        self, scheduler: Scheduler, threads: Threads, wait: WaitEstimate, cells: CellLog, *, gap_ms: float
    ) -> None:
        self._scheduler, self._threads, self._wait, self._cells, self._gap_ms = scheduler, threads, wait, cells, gap_ms
        self._arrived, self._done = _Work(), _Work()
        self._mean_prompt = 0.0

    def arrived(self, sequence: Sequence) -> None:
        """Count a sequence that is about to be queued: the tokens that it must read, and those that it may write."""
        sequence.to_read = sequence.pending - self._shared(sequence)
        self._mean_prompt += (sequence.to_read - self._mean_prompt) * (_NEWEST if self._mean_prompt else 1.0)
        self._arrived.prompt += sequence.to_read
        self._arrived.output += self._wait.expected_tokens(sequence.request.max_tokens, sequence.n_answered)

    def _shared(self, sequence: Sequence) -> int:
        """Return how many of its tokens are in the cache already, or will be once others have been read."""
        tokens = np.asarray(sequence.tokens[:-1], np.int32)
        longest, _ = self._cells.longest_match(tokens, sequence.request.tenant)
        for other in chain(self._scheduler.running, self._scheduler.waiting):
            if longest >= len(tokens):
                break
            # Of hundreds that share a system prompt, only one that has the next token too can share more.
            next_ = other.tokens[longest : longest + 1]
            if next_ == sequence.tokens[longest : longest + 1] and other.request.tenant == sequence.request.tenant:
                longest = max(longest, common_length(np.asarray(other.tokens, np.int32), tokens))
        return longest

    def done(self, read: int, written: int) -> None:
        """Count the tokens of prompts and of answers that a step has computed."""
        self._done.prompt += read
        self._done.output += written

    def now(self, now: float) -> Load:
        """Return the load at `now`, seconds of `time.monotonic`."""
        costs = self._threads.costs
        if not costs.known:
            return Load(to_read=sum(map(_to_read, self._live())), prompts=self._prompts())
        prompt_s = costs.ms(_PROMPT_ROWS) / _PROMPT_ROWS / 1000
        output_s = costs.least_row_ms(self._scheduler.max_running, self._gap_ms) / 1000
        for work in (self._arrived, self._done):
            work.price(prompt_s, output_s)
        to_read = sum(map(_to_read, self._live()))
        to_write = sum(self._wait.expected_tokens(s.request.max_tokens, s.n_answered) for s in self._live())
        return Load(
            ahead_s=prompt_s * to_read + output_s * to_write,
            wait_s=self._wait_s(costs, prompt_s, now),
            to_read=to_read,
            prompts=self._prompts(),
            arrived_s=self._arrived.seconds,
            done_s=self._done.seconds,
            prompt_token_s=prompt_s,
            output_token_s=output_s,
        )

    def _prompts(self) -> int:
        return len({s.request.id for s in self._live() if _to_read(s) > 0})

    def _live(self) -> chain[Sequence]:
        return chain(self._scheduler.running, self._scheduler.waiting)

    def _wait_s(self, costs: StepCosts, prompt_s: float, now: float) -> float:
        """Return how long a new prompt of mean length waits: for room, and for the prompts that are read before it."""
        scheduler = self._scheduler
        queue = [s for s in scheduler.waiting if s.leader is None and s.queue_key[0] <= now]
        reading = [s.pending for s in scheduler.running if not s.decodes]
        before_s = prompt_s * sum(n for n in reading if n <= ALIKE * self._mean_prompt)
        if not queue and len(scheduler.running) < scheduler.max_running:
            return before_s
        place = len(queue) + 1
        return max(before_s, self._wait.until_start_s(place, scheduler.running, costs, _ANY_LENGTH, now))


class _Work:
    """Seconds of work, and tokens that have no price yet."""

    def __init__(self) -> None:
        self.seconds = self.prompt = self.output = 0.0

    def price(self, prompt_s: float, output_s: float) -> None:
        self.seconds += prompt_s * self.prompt + output_s * self.output
        self.prompt = self.output = 0.0


def _to_read(sequence: Sequence) -> int:
    """Return how many tokens of its prompt, or of an answer that it continues, are still to be read."""
    if sequence.decodes:
        return 0
    return sequence.pending if sequence.slot else min(sequence.pending, sequence.to_read)
