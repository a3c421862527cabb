"""How long the queue takes, as its callers are told."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from skills.skill_draft.engine.costs import StepCosts
from skills.skill_draft.engine.waiting import LEAST_S, WaitEstimate

TOKEN_S = 0.1
N_BATCH = 64


@dataclass
class Answering:
    """A sequence in the middle of its answer."""

    n_answered: int
    deadline: float | None = None
    max_tokens: int = 100
    pending: int = 1
    request: Any = field(init=False)

    def __post_init__(self) -> None:
        self.request = SimpleNamespace(max_tokens=self.max_tokens, deadline=self.deadline)


def estimate(*shares: float) -> WaitEstimate:
    """Return the estimate at ten tokens a second, after answers that took these shares of their `max_tokens`."""
    wait = WaitEstimate()
    wait.stepped(TOKEN_S, 1, 1)
    for share in shares:
        wait.ended(100 * share, 100, seconds=100 * share * TOKEN_S)
    return wait


def start_s(wait: WaitEstimate, place: int, *running: Any) -> float:
    return wait.until_start_s(place, running, StepCosts(), N_BATCH, now=0.0)


def least_s(wait: WaitEstimate, place: int, *running: Any) -> float:
    return wait.at_least_s(place, running, StepCosts(), N_BATCH, now=0.0)


def test_each_that_ends_lets_one_in() -> None:
    wait, running = estimate(1.0), (Answering(20), Answering(50))
    assert start_s(wait, 1, *running) == pytest.approx(5.0)
    assert start_s(wait, 2, *running) == pytest.approx(8.0)
    assert start_s(wait, 3, *running) == pytest.approx(5.0 + 10.0), "one whole answer later"
    assert start_s(wait, 1) == LEAST_S


def test_nobody_runs_beyond_the_own_deadline() -> None:
    assert start_s(estimate(1.0), 1, Answering(20, deadline=2.5)) == pytest.approx(2.5)


def test_what_is_certain_goes_by_the_shortest_of_late() -> None:
    running = Answering(20)
    assert least_s(estimate(0.5, 1.0), 1, running) == pytest.approx(3.0)
    assert start_s(estimate(0.5, 1.0), 1, running) == pytest.approx(5.5)
    assert least_s(estimate(), 1, running) == pytest.approx(TOKEN_S), "no answer has ended yet"
    assert least_s(estimate(0.1), 1, running) == pytest.approx(TOKEN_S), "it is longer than any earlier answer"
