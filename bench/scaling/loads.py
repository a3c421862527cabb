"""Loads: the three traces, and made ones. All are arrays of arrival (s), prompt and answer (tokens)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.scaling.replicas import OUTPUT_TOKEN_S, PROMPT_TOKEN_S

TRACES = Path(__file__).parent / "traces"
MOST_PROMPT, MOST_ANSWER = 4096, 2048
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Load:
    """Requests, ascending by time."""

    name: str
    at_s: Floats
    prompt: NDArray[np.int64]
    answer: NDArray[np.int64]
    span_s: float

    @property
    def work_s(self) -> Floats:
        """Work of each request, replica-seconds."""
        return PROMPT_TOKEN_S * self.prompt + OUTPUT_TOKEN_S * self.answer

    @property
    def offered(self) -> float:
        """Mean offered load, replicas."""
        return float(self.work_s.sum()) / self.span_s


def trace(name: str) -> Load:
    """Return a trace: `azure_chat_2023`, `azure_code_2023` or `servegen_day`."""
    rows = np.loadtxt(TRACES / f"{name}.csv", delimiter=",", skiprows=1)
    prompt = np.clip(rows[:, 1], 1, MOST_PROMPT).astype(np.int64)
    answer = np.clip(rows[:, 2], 1, MOST_ANSWER).astype(np.int64)
    return Load(name, rows[:, 0], prompt, answer, float(rows[-1, 0]))


_MEAN = 0.0


def made(name: str, rate: Callable[[Floats], Floats], span_s: float, *, seed: int = 1) -> Load:
    """Return Poisson arrivals with this offered load (replicas at a time), lengths drawn from the chat trace."""
    random = np.random.default_rng(seed)
    pattern = trace("azure_chat_2023")
    mean_s = float(pattern.work_s.mean())
    grid = np.arange(0.0, span_s, 0.5)
    per_slot = random.poisson(np.maximum(0.0, rate(grid)) * 0.5 / mean_s)
    at_s = np.sort(np.repeat(grid, per_slot) + random.uniform(0, 0.5, per_slot.sum()))
    drawn = random.integers(0, len(pattern.prompt), len(at_s))
    return Load(name, at_s, pattern.prompt[drawn], pattern.answer[drawn], span_s)
