"""The runs of the table: which load with which scaler, and what is kept of each."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import numpy as np

from bench.scaling.loads import Floats, Load, made, trace
from bench.scaling.oracle import Delayed, Oracle, Static, peak
from bench.scaling.ours import Ours
from bench.scaling.outcome import Faults
from bench.scaling.rivals import HPA, KPA, Ray
from bench.scaling.shapes import SHAPES, growth, phases
from bench.scaling.world import Scaler, World
from core.scaling import policy as rules
from core.scaling.samples import Limits, ReplicaLoad, Sample

DAY, CHAT, CODE = "servegen_day", "azure_chat_2023", "azure_code_2023"
TRACES = {DAY: 0.99, CHAT: 0.99, CODE: 0.97}
"""The share of requests that may not wait longer than the target."""
STARTS_S = (0.4, 2.0, 30.0)
TARGET_S = 2.0
GOAL = 0.99
MEAN_S = 600.0
CHANGES: dict[str, tuple[dict[str, Any], float]] = {
    "half the hold": ({"HOLD_S": rules.HOLD_S / 2}, Ours.tick_s),
    "twice the hold": ({"HOLD_S": rules.HOLD_S * 2}, Ours.tick_s),
    "spare replicas stay as long": ({"SPARE_S": rules.LONGEST_HOLD_S, "RARER": 0.0}, Ours.tick_s),
    "a tick of 1 s": ({}, 1.0),
}
CHANGED = ((CODE, 2.0), (CODE, 30.0), (CHAT, 30.0))

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
    start_s: float = 2.0
    kept: float = 0.0
    """Share of requests that waited no longer than the target."""
    kept_later: float = 0.0
    """The same for the target and a start and two ticks: what no forecast can spare a burst."""
    cost: float = 0.0
    """Replica-seconds for each second of work."""
    lost: int = 0
    starts: int = 0
    sigma: float = 0.0
    """Standard deviation of the number of replicas after the first ten minutes."""
    shortest_life_s: float | None = None
    offered: float = 0.0
    figures: dict[str, float] = field(default_factory=dict)
    """What the table says of this load alone."""
    day: list[list[float]] = field(default_factory=list)
    """Replicas, and the offered load that our policy sees, means of ten minutes: for the plot."""
    cpu_s: float = 0.0
    """What the case took, at its first result."""


@functools.cache
def load_of(name: str) -> Load:
    """Return a trace or a shape by its name."""
    return trace(name) if name in TRACES else made(name, *SHAPES[name])


def run(
    load: str, policy: str, scaler: Scaler, *, setting: str = "", start_s: float = 2.0, faults: Faults | None = None
) -> Result:  # fmt: skip
    """Run a load, from as many replicas as it needs at first."""
    requests = load_of(load)
    first = requests.at_s < 60.0
    initial = max(1, math.ceil(1.2 * float(requests.work_s[first].sum()) / 60.0))
    outcome = World(requests, scaler, start_s=start_s, faults=faults, initial=initial).outcome()
    ticks = outcome.ticks
    inside = ticks[(ticks[:, 0] >= 600.0) & (ticks[:, 0] < outcome.load.span_s)]
    result = Result(
        load=load, policy=policy, setting=setting, start_s=start_s, kept=round(outcome.kept(TARGET_S), 6),
        kept_later=round(outcome.kept(TARGET_S + start_s + 2.0), 6), cost=round(outcome.relative_cost, 4),
        lost=outcome.lost, starts=outcome.starts, sigma=round(float(inside[:, 1].std()), 3) if len(inside) else 0.0,
        shortest_life_s=min(outcome.lives_s, default=None), offered=round(requests.offered, 3),
    )  # fmt: skip
    if policy == "ours" and load in CLOSELY:
        result.figures = CLOSELY[load](ticks, requests)
    if load == DAY and policy in {"ours", "oracle"} and start_s == 2.0:
        bins = (ticks[:, 0] // MEAN_S).astype(int)
        means = [np.bincount(bins, ticks[:, column]) / np.maximum(1, np.bincount(bins)) for column in (1, 3)]
        result.day = [[round(value, 2) for value in line.tolist() if not math.isnan(value)] for line in means]
    return result


CLOSELY: dict[str, Callable[[Floats, Load], dict[str, float]]] = {
    "step x10": growth,
    "square wave": lambda ticks, _: phases(ticks),
}


def ours(load: str, start_s: float, target_s: float = TARGET_S, faults: str = "") -> list[Result]:
    """Run our policy."""
    scaler = Ours(Limits(low=1, high=10_000, target_wait_s=target_s))
    policy = f"ours, {faults}" if faults else "ours"
    found = FAULTS[faults] if faults else None
    return [run(load, policy, scaler, setting=f"{target_s:g} s", start_s=start_s, faults=found)]


def changed(load: str, start_s: float, change: str) -> list[Result]:
    """Run our policy with another constant."""
    constants, tick_s = CHANGES[change]
    scaler = Ours(Limits(low=1, high=10_000))
    scaler.tick_s = tick_s
    with patch.multiple(rules, **constants) if constants else nullcontext():
        return [run(load, "changed", scaler, setting=change, start_s=start_s)]


def delayed(load: str, start_s: float) -> list[Result]:
    """Return what can be had by acting on what has been needed so far, at all settings."""
    return [
        run(load, "delayed", Delayed(load_of(load), hold_s, margin), setting=f"{hold_s:g} s, {margin:g}",
            start_s=start_s)
        for hold_s in (10.0, 30.0, 60.0, 150.0, 300.0, 600.0) for margin in (1.0, 1.3, 1.7)
    ]  # fmt: skip


def tick() -> list[Result]:
    """Time `decide` over a thousand replicas with a full memory, the median of fifty."""
    state, limits, taken = rules.State(), Limits(), []
    for number in range(200):
        loads = tuple(
            ReplicaLoad(
                name=f"r{n}", prompts_waiting=2 if n % 2 else 0, prefill_tokens_waiting=900 * (n % 2),
                work_ahead_s=9.0, work_arrived_s=float(number), work_done_s=float(number), total_requests=number,
                start_s=2.0, prompt_token_ms=14.0,
            ) for n in range(1000)
        )  # fmt: skip
        sample = Sample(at_s=number * 0.5, replicas=loads)
        began_s = time.perf_counter()
        state, _ = rules.decide(state, sample, limits)
        taken.append(time.perf_counter() - began_s)
    return [Result(load="1,000 replicas", policy="tick", figures={"ms": float(np.median(taken[-50:])) * 1000})]


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


def static(load: str, start_s: float, goal: float | None = None) -> list[Result]:
    """Return the smallest constant number of replicas that keeps to the goal."""
    goal = goal or TRACES.get(load, GOAL)
    low, high = math.ceil(load_of(load).offered), peak(load_of(load)) * 2
    best: list[Result] = []
    while high - low > max(1, high // 50):
        middle = (low + high) // 2
        result = run(load, "static", Static(middle), setting=str(middle), start_s=start_s)
        if result.kept >= goal and result.lost == 0:
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


Case = tuple[str, Callable[..., list[Result]], tuple[Any, ...]]


def cases() -> Iterator[Case]:
    """Yield every case with the part that it belongs to."""
    for load in TRACES:
        yield from _on_trace(load)
    for load in SHAPES:
        large = load in {"constant 100", "constant 1000"}
        yield "large" if large else "shapes", ours, (load, 2.0)
        if not large:
            yield "shapes", oracle, (load, 2.0)
    for faults in FAULTS:
        yield "faults", ours, ("ramp", 2.0, TARGET_S, faults)
    for change in CHANGES:
        for load, start_s in CHANGED:
            yield "changes", changed, (load, start_s, change)
    yield "bound", delayed, (CODE, 30.0)
    yield "bound", static, (CODE, 30.0, GOAL)
    yield "tick", tick, ()


def _on_trace(load: str) -> Iterator[Case]:
    for start_s in STARTS_S:
        yield "traces", ours, (load, start_s)
        yield "traces", oracle, (load, start_s)
    yield "traces", static, (load, 2.0)
    for name in RIVALS:
        yield "rivals", rival, (load, name)
    for target_s in (0.05, 0.2):
        yield "rivals", ours, (load, 2.0, target_s)
