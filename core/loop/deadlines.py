"""The time that a loop has, in all and for each iteration."""

from __future__ import annotations

import time

LEAST_CALL_S = 0.05
"""With less left of the budget than this, no call is begun."""
GRACE_S = 1.0
"""How long after the end of the budget an answer is waited for: a step of a large model, and the way back."""


class Deadlines:
    """Counts from its making on.

    Args:
        timeout_s: for each iteration.
        time_budget_s: in all, None without bound.
    """

    def __init__(self, *, timeout_s: float, time_budget_s: float | None) -> None:
        self.started_s = time.monotonic()
        self._timeout_s = timeout_s
        self._budget_end_s = None if time_budget_s is None else self.started_s + time_budget_s
        self._iteration_end_s = self.started_s + timeout_s

    def next_iteration(self) -> None:
        """An iteration begins."""
        self._iteration_end_s = time.monotonic() + self._timeout_s

    @property
    def budget_is_over(self) -> bool:
        """Whether no further call is to be begun."""
        return self._budget_end_s is not None and self._budget_end_s - time.monotonic() < LEAST_CALL_S

    def time_budget_ms(self) -> int:
        """What a call may take to answer with what it has by then, milliseconds; 0 without a budget."""
        if self._budget_end_s is None:
            return 0
        return max(1, int((self._budget_end_s - time.monotonic()) * 1000))

    def call_timeout_s(self) -> float:
        """The hard deadline of a call that begins now, seconds."""
        end_s = self._iteration_end_s
        if self._budget_end_s is not None:
            end_s = min(end_s, self._budget_end_s + GRACE_S)
        return max(0.0, end_s - time.monotonic())
