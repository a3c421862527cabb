"""Forecast of a call's first token: reported to its caller while it waits, and a reason to refuse it at once."""

from __future__ import annotations

from collections.abc import Sequence as ListOf

from .messages import Progress
from .scheduler import ALIKE, QUIET_STEP_MS, Scheduler
from .sequence import Sequence
from .threads import Threads
from .waiting import WaitEstimate

LOOK_EVERY_S = 0.25
# Prompts that arrive together are prefilled together: after the first one arrives, the loop waits for others for this
# share of its step's expected time.
BATCHING_DELAY_SHARE = 0.01


class Forecast:
    """Estimates from the queue and from the prompts being prefilled."""

    def __init__(self, scheduler: Scheduler, threads: Threads, wait: WaitEstimate, *, n_batch: int) -> None:
        self._scheduler, self._threads, self._wait, self._n_batch = scheduler, threads, wait, n_batch

    def progress(self, sequences: ListOf[Sequence], place: int, now: float) -> Progress:
        """Return the progress of the call that has these candidates.

        Args:
            sequences: All candidates of the call.
            place: Its place in the queue, from 1; 0 once it has left the queue.
            now: Seconds of `time.monotonic`.
        """
        first = sequences[0]
        if place and first.leader:
            wait_s = self.reading_s(first.leader[0].pending)
        elif place:
            wait_s = self.until_start_s(place, now)
        else:
            pending = max(s.pending for s in sequences)
            # Shorter prompts are prefilled before it, and those of like length may be prefilled together with it.
            before = (s for s in self._scheduler.running if s not in sequences and not s.decodes)
            wait_s = self.reading_s(pending + sum(s.pending for s in before if s.pending <= ALIKE * pending))
        return Progress(
            id=first.request.id,
            place=place,
            wait_s=wait_s,
            read=max(min(s.slot.length if s.slot else 0, s.n_prompt) for s in sequences),
            prompt_tokens=first.n_prompt,
        )

    def until_start_s(self, place: int, now: float) -> float:
        """Return how long the request at a place in the queue, from 1, still waits there, in seconds."""
        return self._wait.until_start_s(place, self._scheduler.running, self._threads.costs, self._n_batch, now)

    def batching_delay_s(self) -> float:
        """Return how long to wait for further requests before starting those in the queue, in seconds."""
        waiting = self._scheduler.waiting
        if self._scheduler.running or not 0 < len(waiting) < self._scheduler.max_running:
            return 0.0
        rows = min(sum(s.pending for s in waiting), self._n_batch)
        return BATCHING_DELAY_SHARE * min(self._threads.costs.recent_ms(rows), QUIET_STEP_MS) / 1000

    def reading_s(self, tokens: int) -> float:
        """Return how long prefilling `tokens` tokens takes, in seconds."""
        return self._threads.costs.ms(min(tokens, self._n_batch)) * max(1.0, tokens / self._n_batch) / 1000

    def too_late(self, sequence: Sequence, to_read: int, now: float, *, place: int = 0) -> str:
        """Return why a call cannot have its first token before its deadline; empty if it may."""
        deadline, costs = sequence.request.deadline, self._threads.costs
        if deadline is None or sequence.n_answered or not costs.known:
            return ""
        running, wait_s = self._scheduler.running, 0.0
        if place and len(running) >= self._scheduler.max_running:
            wait_s = self._wait.at_least_s(place, running, costs, self._n_batch, now)
        reads_s = self.reading_s(to_read)
        # The estimate may be off by half, so refuse only what is out of reach even then.
        if now + (wait_s + reads_s) / 2 <= deadline:
            return ""
        left = f"the deadline is in {max(0.0, deadline - now):.1f} s"
        if wait_s > reads_s:
            return f"{left}, and the wait in the queue is about {wait_s:.1f} s (place {place})"
        return f"{left}, and reading the prompt takes about {reads_s:.1f} s"
