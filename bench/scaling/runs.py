"""The runs of the table: which load with which scaler, and what is kept of each."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.scaling.loads import Floats, Load, made, trace
from bench.scaling.oracle import Oracle, Static, peak
from bench.scaling.ours import Ours
from bench.scaling.outcome import Faults
from bench.scaling.rivals import HPA, KPA, Ray
from bench.scaling.world import Scaler, World
from core.scaling.samples import Limits

DAY, CHAT, CODE = "servegen_day", "azure_chat_2023", "azure_code_2023"
TRACES = {DAY: 0.99, CHAT: 0.99, CODE: 0.97}
"""The share of requests that may not wait longer than the target."""
STARTS_S = (0.4, 2.0, 30.0)
TARGET_S = 2.0
GOAL = 0.99

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
    "constant 100": (_constant(100.0), 3600.0),
    "constant 1000": (_constant(1000.0), 600.0),
    "step x10": (_step, SPAN_S),
    "ramp": (_ramp, SPAN_S),
    "square wave": (_square, SPAN_S),
    "flash crowd x20": (_flash, SPAN_S),
}
FAULTS = {
    "data 15 s old": Faults(stale_s=15.0),
    "a death a minute": Faults(death_every_s=60.0),
    "every third start fails": Faults(failed_starts=0.33),
    "half of them half as fast": Faults(slow=True),
    "counters begin anew each minute": Faults(reset_every_s=60.0),
    "all of it": Faults(stale_s=15.0, death_every_s=60.0, failed_starts=0.33, slow=True, reset_every_s=60.0),
}
RIVALS: dict[str, tuple[Callable[..., Scaler], tuple[Any, ...], tuple[tuple[Any, ...], ...]]] = {
    "HPA on CPU": (functools.partial(HPA, by_cpu=True), (0.8,), ((0.9,), (0.65,), (0.5,))),
    "HPA on requests": (functools.partial(HPA, by_cpu=False), (2,), ((1,), (0.7,), (0.5,))),
    "KPA": (KPA, (70,), ((2,), (1,), (0.7,), (0.5,))),
    "Ray Serve": (
        lambda target, up_s=30.0, down_s=600.0: Ray(target, up_s=up_s, down_s=down_s),
        (2,), ((1,), (0.7,), (1, 0.0, 60.0), (0.7, 0.0, 60.0), (0.5, 0.0, 60.0)),
    ),
}  # fmt: skip
"""Each one's default (the HPA has none for requests: two, as Ray), and the settings to choose the best from."""


@dataclass(kw_only=True)
class Result:
    """A run in figures."""

    load: str
    policy: str
    setting: str = ""
    start_s: float
    kept: float
    """Share of requests that waited no longer than the target."""
    kept_later: float
    """The same for the target and a start and two ticks: what no forecast can spare a burst."""
    cost: float
    """Replica-seconds for each second of work."""
    lost: int
    starts: int
    most: int
    sigma: float
    """Standard deviation of the number of replicas after the first ten minutes."""
    shortest_life_s: float
    offered: float
    ticks: list[list[float]]
    """Time, replicas, those that serve, and the offered load that our policy sees."""


@functools.cache
def load_of(name: str) -> Load:
    """Return a trace or a shape by its name."""
    return trace(name) if name in TRACES else made(name, *SHAPES[name])


def run(
    load: str, policy: str, scaler: Scaler, *, setting: str = "", start_s: float = 2.0, faults: Faults | None = None,
    target_s: float = TARGET_S,
) -> Result:  # fmt: skip
    """Run a load, from as many replicas as it needs at first."""
    requests = load_of(load)
    first = requests.at_s < 60.0
    initial = max(1, math.ceil(1.2 * float(requests.work_s[first].sum()) / 60.0))
    outcome = World(requests, scaler, start_s=start_s, faults=faults, initial=initial).outcome()
    ticks = outcome.ticks
    inside = ticks[(ticks[:, 0] >= 600.0) & (ticks[:, 0] < outcome.load.span_s)]
    return Result(
        load=load, policy=policy, setting=setting, start_s=start_s, kept=outcome.kept(target_s),
        kept_later=outcome.kept(target_s + start_s + 2.0), cost=outcome.relative_cost, lost=outcome.lost,
        starts=outcome.starts, most=int(ticks[:, 1].max()),
        sigma=float(inside[:, 1].std()) if len(inside) else 0.0,
        shortest_life_s=min(outcome.lives_s, default=math.inf), offered=outcome.load.offered,
        ticks=np.round(_thinned(ticks, load, policy), 2).tolist(),
    )  # fmt: skip


def _thinned(ticks: Floats, load: str, policy: str) -> Floats:
    """Return every tick of a shape that is looked at closely, one a minute of the day that is drawn, else none."""
    if load in {"step x10", "square wave"} and policy == "ours":
        return ticks
    if load != DAY or policy not in {"ours", "oracle"}:
        return ticks[:0]
    return ticks[np.unique(ticks[:, 0] // 60, return_index=True)[1]]


def ours(load: str, start_s: float, target_s: float = TARGET_S, faults: str = "") -> list[Result]:
    """Run our policy."""
    scaler = Ours(Limits(low=1, high=10_000, target_wait_s=target_s))
    policy = f"ours, {faults}" if faults else "ours"
    result = run(
        load, policy, scaler, setting=f"{target_s:g} s", start_s=start_s, target_s=TARGET_S,
        faults=FAULTS[faults] if faults else None,
    )  # fmt: skip
    return [result]


def oracle(load: str, start_s: float) -> list[Result]:
    """Return the cheapest oracle that keeps to the goal, in steps of a tenth of its margin."""
    goal = TRACES.get(load, GOAL)
    best: Result | None = None
    for gap_s in (30.0, 60.0) if start_s == 2.0 else (60.0,):
        margin, way = 1.2, 0
        for _ in range(5):
            scaler = Oracle(load_of(load), start_s, margin, gap_s)
            result = run(load, "oracle", scaler, setting=f"{margin:.1f}, {gap_s:g} s", start_s=start_s)
            if result.kept >= goal and result.lost == 0:
                best = result if best is None or result.cost < best.cost else best
                if way > 0:
                    break
                way, margin = -1, margin - 0.1
            else:
                if way < 0:
                    break
                way, margin = 1, margin + 0.1
    return [best] if best else []


def static(load: str, start_s: float) -> list[Result]:
    """Return the smallest constant number of replicas that keeps to the goal."""
    low, high = math.ceil(load_of(load).offered), peak(load_of(load)) * 2
    best: list[Result] = []
    while high - low > max(1, high // 50):
        middle = (low + high) // 2
        result = run(load, "static", Static(middle), setting=str(middle), start_s=start_s)
        if result.kept >= TRACES.get(load, GOAL) and result.lost == 0:
            high, best = middle, [result]
        else:
            low = middle
    return best


def rival(load: str, name: str) -> list[Result]:
    """Run a rival at its default and its other settings."""
    make, default, others = RIVALS[name]
    return [
        run(load, name, make(*arguments), setting=("default " if arguments == default else "") + _words(arguments))
        for arguments in (default, *others)
    ]


def _words(arguments: tuple[Any, ...]) -> str:
    return ", ".join(f"{argument:g}" for argument in arguments)


def cases() -> Iterator[tuple[Callable[..., list[Result]], tuple[Any, ...]]]:
    """Yield every case, the longest first."""
    yield ours, ("constant 100", 2.0)
    for load in TRACES:
        for start_s in STARTS_S:
            yield ours, (load, start_s)
            yield oracle, (load, start_s)
        for name in RIVALS:
            yield rival, (load, name)
        yield static, (load, 2.0)
        for target_s in (1.0, 4.0, 6.0):
            yield ours, (load, 2.0, target_s)
    for load in SHAPES:
        if load != "constant 100":
            yield ours, (load, 2.0)
        if not load.startswith("constant 100"):
            yield oracle, (load, 2.0)
    for faults in FAULTS:
        yield ours, ("ramp", 2.0, TARGET_S, faults)
