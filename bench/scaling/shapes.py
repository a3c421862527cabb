"""Made loads, and what is looked at closely in two of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from bench.scaling.loads import Floats, Load
from bench.scaling.oracle import busy_peaks

STEP_AT_S, SPAN_S, SQUARE_S = 1200.0, 3600.0, 30.0


def _step(t: Floats) -> Floats:
    return np.where(t < STEP_AT_S, 5.0, 50.0)


def _ramp(t: Floats) -> Floats:
    return 5.0 + 95.0 * np.clip((t - 600.0) / 1800.0, 0.0, 1.0)


def _square(t: Floats) -> Floats:
    return np.where((t // SQUARE_S) % 2 == 0, 40.0, 10.0)


def _flash(t: Floats) -> Floats:
    return 5.0 + 95.0 * np.clip((t - 1200.0) / 10.0, 0.0, 1.0) * (t < 1500.0)


def _constant(load: float) -> Callable[[Floats], Floats]:
    return lambda t: np.full_like(t, load)


SHAPES: dict[str, tuple[Callable[[Floats], Floats], float]] = {
    "constant 1": (_constant(1.0), 4 * 3600.0),
    "constant 10": (_constant(10.0), 4 * 3600.0),
    "constant 100": (_constant(100.0), 4 * 3600.0),
    "constant 1000": (_constant(1000.0), 1200.0),
    "step x10": (_step, SPAN_S),
    "ramp": (_ramp, SPAN_S),
    "square wave": (_square, SPAN_S),
    "flash crowd x20": (_flash, SPAN_S),
}


def phases(ticks: Floats) -> dict[str, float]:
    """Return how often the number of replicas begins to go up, or down, in a period of the square wave."""
    at_s, steps = ticks[1:, 0], np.sign(np.diff(ticks[:, 1]))
    at_s, steps = at_s[steps != 0], steps[steps != 0]
    begins = np.flatnonzero(np.diff(steps) != 0) + 1
    begins = begins[(at_s[begins] >= 600.0) & (at_s[begins] < SPAN_S)]
    period = (at_s[begins] + SQUARE_S) // (2 * SQUARE_S)
    periods, numbers = np.unique((period, steps[begins]), axis=1, return_counts=True)
    return {"phases": len(begins) / len(np.unique(periods[0])), "most in one direction": int(numbers.max())}


def growth(ticks: Floats, load: Load) -> dict[str, float]:
    """Return how many replicas there were right after the step and later, and how late those were that had use."""
    at_s, there, serving = ticks[:, 0], ticks[:, 1], ticks[:, 2]
    after = there[(at_s >= STEP_AT_S) & (at_s < STEP_AT_S + 120.0)].max()
    later = there[(at_s >= STEP_AT_S + 600.0) & (at_s < SPAN_S)].max()
    first = int(STEP_AT_S / 0.5)
    grown = np.interp(np.arange(first, first + 120) * 0.5, at_s, serving)
    needed = busy_peaks(load, slot_s=0.5)[first : first + 120]
    lags = [
        next((wait for wait in range(40) if grown[min(119, at + wait)] >= needed[at]), 40) * 0.5 for at in range(100)
    ]
    return {"after": float(after), "later": float(later), "lag p99": float(np.percentile(lags, 99)), "lag": max(lags)}
