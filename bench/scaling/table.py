"""What was promised, and what the runs say."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from bench.scaling.runs import (
    CHANGED,
    CHANGES,
    CHAT,
    CODE,
    DAY,
    FAULTS,
    GOAL,
    RIVALS,
    STARTS_S,
    TRACES,
    Result,
)  # fmt: skip
from bench.scaling.shapes import SHAPES
from core.scaling.policy import SHORTEST_HOLD_S

PAGE = Path(__file__).parents[2] / "docs" / "autoscaling.md"
BEGIN, END = "<!-- written by `python -m bench.scaling publish` -->", "<!-- end -->"
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

    def one(self, load: str, policy: str, start_s: float = 2.0, setting: str = "") -> Result | None:
        """Return the one run of a load with a policy."""
        return next(iter(self.find(load, policy, start_s, setting)), None)


def best(results: list[Result], goal: float) -> Result | None:
    """Return the cheapest that keeps to the goal, else the one that comes nearest."""
    kept = [each for each in results if each.kept >= goal and not each.lost]
    if kept:
        return min(kept, key=lambda each: each.cost)
    return max(results, key=lambda each: each.kept, default=None)


def _steady(runs: Runs) -> Iterator[Row]:
    for load in ("constant 1", "constant 10", "constant 100", "constant 1000"):
        if (ours := runs.ours(load)) is not None:
            limit = 1.5 * ours.offered**0.5
            hours = SHAPES[load][1] / 3600
            yield (
                f"{load}, {hours:.2g} h: deviation of n ≤ 1.5·√R = {limit:.1f}",
                f"{ours.sigma:.1f}",
                ours.sigma <= limit,
            )
    found = [each for each in runs.all if each.policy == "ours" and each.setting == "2 s"]
    lives_s = [each.shortest_life_s for each in found if each.shortest_life_s is not None]
    if lives_s:
        name = f"no replica lives shorter than the shortest hold ({SHORTEST_HOLD_S:g} s), all loads"
        yield name, f"{min(lives_s):.1f} s", min(lives_s) >= SHORTEST_HOLD_S


def _shapes(runs: Runs) -> Iterator[Row]:
    if (ours := runs.ours("square wave")) is not None:
        most = ours.figures["most in one direction"]
        text = f"{ours.figures['phases']:.1f} phases a period, at most {most:g} in one direction"
        yield "square wave at the hold: one phase up and one down a period at most", text, most <= 1
    if (ours := runs.ours("step x10")) is not None:
        after, later, lag_s = (ours.figures[name] for name in ("after", "later", "lag"))
        over = after / later - 1
        text = f"{over:+.0%} ({after:.0f}, {later:.0f})"
        yield "step: overshoot ≤ 15 % of the most at the same load later", text, over <= 0.15
        text = f"{ours.figures['lag p99']:.1f} s, {lag_s:.1f} s at most"
        yield "step: as many replicas serve as have use, within start + 2 ticks (3 s)", text, lag_s <= 3.0


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
    for each in runs.find("1,000 replicas", "tick"):
        ms = each.figures["ms"]
        yield "a tick over 1,000 replicas ≤ 10 ms", f"{ms:.1f} ms", ms <= 10.0


def table(results: list[Result]) -> str:
    """Return the criteria, what follows from changed constants, and the bound, as Markdown."""
    runs = Runs(results)
    rows = [row for part in (_steady, _shapes, _waits, _costs, _rivals, _others) for row in part(runs)]
    minutes = sum(each.cpu_s for each in results) / 60
    lines = [
        f"{sum(met for *_, met in rows)} of {len(rows)} criteria are met. All runs take {minutes:.0f} min of one core.",
        "", "| criterion | figure | met |", "| --- | --- | --- |",
        *(f"| {name} | {figure} | {'yes' if met else '**no**'} |" for name, figure, met in rows),
        "", *_changes(runs), "", *_bound(runs),
    ]  # fmt: skip
    return "\n".join(lines)


def _changes(runs: Runs) -> Iterator[str]:
    if not any(each.policy == "changed" for each in runs.all):
        return
    yield "Other constants (share of waits up to 2 s, and cost):"
    yield ""
    yield f"| | {' | '.join(f'{NAMES[load]}, start {start_s:g} s' for load, start_s in CHANGED)} |"
    yield "| --- |" + " --- |" * len(CHANGED)
    for change in ("", *CHANGES):
        cells = [
            runs.ours(load, start_s) if not change else runs.one(load, "changed", start_s, change)
            for load, start_s in CHANGED
        ]
        yield f"| {change or 'as they are'} | {' | '.join(_point(cell) if cell else '' for cell in cells)} |"


def _bound(runs: Runs) -> Iterator[str]:
    """Show what can be had on the code trace by acting on what has been needed so far."""
    oracle, ours, found = runs.one(CODE, "oracle", 30.0), runs.ours(CODE, 30.0), runs.find(CODE, "delayed", 30.0)
    static = runs.one(CODE, "static", 30.0)
    if oracle is None or ours is None or static is None or not found:
        return
    affordable = [each for each in found if each.cost <= 1.3 * oracle.cost]
    most = max(affordable, key=lambda each: each.kept)
    best_ = max(found, key=lambda each: each.kept)
    yield (
        f"Code at a start of 30 s, {len(found)} settings of who knows what is needed, but only once it is: at up to "
        f"1.3 times the oracle's cost the best one keeps {_point(most)} ({most.setting}), at any cost {_point(best_)} "
        f"({best_.setting}). The smallest constant number for {GOAL:.0%} ({static.setting} replicas) keeps "
        f"{_point(static)}. Our policy keeps {_point(ours)}."
    )


def publish(results: list[Result]) -> None:
    """Put the table between the marks of the page."""
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    after = rest.split(END)[1]
    PAGE.write_text(f"{before}{BEGIN}\n\n{table(results)}\n\n{END}{after}", encoding="utf-8")
