"""What was promised, and what the runs say."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

import numpy as np

from bench.scaling.oracle import busy_peaks
from bench.scaling.runs import (
    CHAT,
    CODE,
    DAY,
    FAULTS,
    RIVALS,
    SHAPES,
    SQUARE_S,
    STARTS_S,
    STEP_AT_S,
    TRACES,
    Result,
    load_of,
)  # fmt: skip
from core.scaling.policy import State, decide
from core.scaling.samples import Limits, ReplicaLoad, Sample

Row = tuple[str, str, bool]
NAMES = {DAY: "day", CHAT: "chat", CODE: "code"}


class Runs:
    """All results, to be looked up."""

    def __init__(self, results: Iterable[Result]) -> None:
        self.all = list(results)

    def find(self, load: str, policy: str, start_s: float = 2.0, setting: str = "") -> list[Result]:
        """Return the runs of a load with a policy."""
        return [
            each for each in self.all
            if (each.load, each.policy, each.start_s) == (load, policy, start_s) and setting in ("", each.setting)
        ]  # fmt: skip

    def ours(self, load: str, start_s: float = 2.0) -> Result | None:
        """Return our policy's run with the target of 2 s."""
        return next(iter(self.find(load, "ours", start_s, "2 s")), None)

    def one(self, load: str, policy: str, start_s: float = 2.0) -> Result | None:
        """Return the one run of a load with a policy."""
        return next(iter(self.find(load, policy, start_s)), None)


def best(results: list[Result], goal: float) -> Result | None:
    """Return the cheapest that keeps to the goal, else the one that comes nearest."""
    kept = [each for each in results if each.kept >= goal and not each.lost]
    if kept:
        return min(kept, key=lambda each: each.cost)
    return max(results, key=lambda each: each.kept, default=None)


def _steady(runs: Runs) -> Iterator[Row]:
    for load in ("constant 1", "constant 10", "constant 100"):
        if (ours := runs.ours(load)) is not None:
            limit = 1.5 * ours.offered**0.5
            yield (
                f"{load}, {SHAPES[load][1] / 3600:g} h: deviation of n ≤ 1.5·√R = {limit:.1f}",
                f"{ours.sigma:.1f}",
                ours.sigma <= limit,
            )
    lives = [each.shortest_life_s for each in runs.all if each.policy == "ours" and each.start_s == 2.0]
    yield "no replica lives shorter than the hold (30 s), all loads", f"{min(lives):.1f} s", min(lives) >= 30.0


def _square(runs: Runs) -> Iterator[Row]:
    if (ours := runs.ours("square wave")) is None:
        return
    ticks = np.array(ours.ticks)
    at_s, steps = ticks[1:, 0], np.sign(np.diff(ticks[:, 1]))
    at_s, steps = at_s[steps != 0], steps[steps != 0]
    begins = np.flatnonzero(np.diff(steps) != 0) + 1
    begins = begins[(at_s[begins] >= 600.0) & (at_s[begins] < 3600.0)]
    periods, numbers = np.unique(
        ((at_s[begins] + SQUARE_S) // (2 * SQUARE_S), steps[begins]), axis=1, return_counts=True
    )
    most, mean = int(numbers.max()), len(begins) / len(np.unique(periods[0]))
    text = f"{mean:.1f} phases a period, at most {most} in one direction"
    yield "square wave at the hold: one phase up and one down a period at most", text, most <= 1


def _step(runs: Runs) -> Iterator[Row]:
    if (ours := runs.ours("step x10")) is None:
        return
    ticks = np.array(ours.ticks)
    at_s, there, serving = ticks[:, 0], ticks[:, 1], ticks[:, 2]
    after = there[(at_s >= STEP_AT_S) & (at_s < STEP_AT_S + 120.0)].max()
    later = there[(at_s >= STEP_AT_S + 600.0) & (at_s < 3600.0)].max()
    over = after / later - 1
    yield (
        "step: overshoot ≤ 15 % of the most at the same load later",
        f"{over:+.0%} ({after:.0f}, {later:.0f})",
        over <= 0.15,
    )
    load = load_of("step x10")
    peaks = busy_peaks(load, slot_s=0.5)
    first = int(STEP_AT_S / 0.5)
    grown = np.interp(np.arange(first, first + 120) * 0.5, at_s, serving)
    needed = peaks[first : first + 120]
    lags = [
        next((wait for wait in range(40) if grown[min(119, at + wait)] >= needed[at]), 40) * 0.5 for at in range(100)
    ]
    yield (
        "step: as many replicas serve as have use, within start + 2 ticks (3 s)",
        f"{float(np.percentile(lags, 99)):.1f} s, {max(lags):.1f} s at most", max(lags) <= 3.0,
    )  # fmt: skip


def _waits(runs: Runs) -> Iterator[Row]:
    for load, goal in TRACES.items():
        if (ours := runs.ours(load)) is not None:
            yield f"{NAMES[load]}, start 2 s: wait ≤ 2 s for ≥ {goal:.0%}", f"{ours.kept:.2%}", ours.kept >= goal
    for load, start_s in _elsewhere():
        ours, oracle = runs.ours(load, start_s), runs.one(load, "oracle", start_s)
        if ours is not None and oracle is not None:
            name = NAMES.get(load, load)
            yield (
                f"{name}, start {start_s:g} s: within a point of the oracle",
                f"{ours.kept:.2%}, oracle {oracle.kept:.2%}",
                ours.kept >= oracle.kept - 0.01,
            )  # fmt: skip


def _elsewhere() -> Iterator[tuple[str, float]]:
    for load in TRACES:
        yield from ((load, start_s) for start_s in STARTS_S if start_s != 2.0)
    yield from ((load, 2.0) for load in SHAPES)


def _costs(runs: Runs) -> Iterator[Row]:
    for load, start_s in [*((load, 2.0) for load in TRACES), *_elsewhere()]:
        ours, oracle = runs.ours(load, start_s), runs.one(load, "oracle", start_s)
        if ours is not None and oracle is not None:
            most = 1.1 if ours.offered >= 100 else 1.3
            ratio = ours.cost / oracle.cost
            text = f"{ratio:.2f} ({ours.cost:.2f}, {oracle.cost:.2f})"
            yield f"{NAMES.get(load, load)}, start {start_s:g} s: cost ≤ {most} x oracle", text, ratio <= most
    ours, static = runs.ours(DAY), runs.one(DAY, "static")
    if ours is not None and static is not None:
        ratio = ours.cost / static.cost
        yield "day: cost ≤ 0.6 x static peak", f"{ratio:.2f} ({ours.cost:.2f}, {static.cost:.2f})", ratio <= 0.6


def _rivals(runs: Runs) -> Iterator[Row]:
    for load, goal in TRACES.items():
        for name in RIVALS:
            settings = runs.find(load, name)
            there = best(settings, goal)
            default = next((each for each in settings if each.setting.startswith("default")), None)
            if there is None or default is None:
                continue
            cheaper = [each for each in runs.find(load, "ours") if each.kept >= there.kept - 0.0005]
            ours = min(cheaper, key=lambda each: each.cost, default=None)
            mine = f"ours {_point(ours)}" if ours else "ours never keeps that"
            text = f"{_point(there)} ({there.setting}); default {_point(default)}"
            yield (
                f"{NAMES[load]}: cheaper than {name} at its SLO",
                f"{mine}; {text}",
                bool(ours and ours.cost < there.cost),
            )


def _point(result: Result) -> str:
    return f"{result.kept:.1%} at {result.cost:.2f}"


def _others(runs: Runs) -> Iterator[Row]:
    for faults in FAULTS:
        clean, ours = runs.ours("ramp"), runs.one("ramp", f"ours, {faults}")
        if ours is not None and clean is not None:
            text = f"{ours.lost} lost; {_point(ours)}, without faults {_point(clean)}"
            yield f"ramp, {faults}: no call lost", text, not ours.lost
    lost = sum(each.lost for each in runs.all if each.policy == "ours")
    yield "no call lost, all loads", f"{lost}", not lost
    ms = tick_ms()
    yield "a tick over 1,000 replicas ≤ 10 ms", f"{ms:.1f} ms", ms <= 10.0


def tick_ms(replicas: int = 1000) -> float:
    """Return what `decide` takes with a full memory, the median of fifty."""
    state, limits, taken = State(), Limits(), []
    for tick in range(200):
        loads = tuple(
            ReplicaLoad(
                name=f"r{n}", prompts_waiting=2 if n % 2 else 0, prefill_tokens_waiting=900 * (n % 2),
                work_ahead_s=9.0, work_arrived_s=float(tick), work_done_s=float(tick), total_requests=tick,
                start_s=2.0, prompt_token_ms=14.0,
            ) for n in range(replicas)
        )  # fmt: skip
        sample = Sample(at_s=tick * 0.5, replicas=loads)
        began_s = time.perf_counter()
        state, _ = decide(state, sample, limits)
        taken.append(time.perf_counter() - began_s)
    return float(np.median(taken[-50:])) * 1000


def table(results: list[Result]) -> str:
    """Return the table as Markdown."""
    runs = Runs(results)
    lines = ["| criterion | figure | met |", "| --- | --- | --- |"]
    for part in (_steady, _square, _step, _waits, _costs, _rivals, _others):
        lines += [f"| {name} | {figure} | {'yes' if met else '**no**'} |" for name, figure, met in part(runs)]
    return "\n".join(lines)
