"""The day, and what others pay for the same waits."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl

from bench.scaling.runs import CHAT, CODE, DAY, MEAN_S, TARGET_S, Result
from bench.scaling.table import NAMES, Runs

mpl.use("Agg")
from matplotlib import pyplot as plt  # the backend comes first

FOLDER = Path(__file__).parents[1] / "plots"


def plots(results: list[Result]) -> None:
    """Draw both plots."""
    runs = Runs(results)
    _day(runs)
    _costs(runs)


def _day(runs: Runs) -> None:
    ours, oracle = runs.ours(DAY), runs.one(DAY, "oracle")
    figure, axes = plt.subplots(figsize=(9, 3.6))
    lines = (ours, 0, "replicas"), (oracle, 0, "oracle"), (ours, 1, "offered load R, the larger of 10 s and 60 s")
    for result, line, label in lines:
        if result is not None:
            means = result.day[line]
            hours = [number * MEAN_S / 3600 for number in range(len(means))]
            axes.step(hours, means, where="post", linewidth=1.0, label=label)
    axes.set(xlabel="hour", ylabel="replicas, mean of 10 minutes", xlim=(0, 24))
    axes.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(FOLDER / "scaling-day.png", dpi=110)


def _costs(runs: Runs) -> None:
    figure, all_axes = plt.subplots(1, 3, figsize=(11, 3.6))
    for axes, load in zip(all_axes, (DAY, CHAT, CODE), strict=True):
        for policy in ("ours", "oracle", "static", "HPA on CPU", "HPA on requests", "KPA", "Ray Serve"):
            found = runs.find(load, policy)
            axes.scatter(
                [100 * each.kept for each in found], [each.cost for each in found], label=policy,
                s=45 if policy == "ours" else 18, marker="*" if policy == "oracle" else "o",
            )  # fmt: skip
        axes.set(title=NAMES[load], xlabel=f"waits up to {TARGET_S:g} s, %", xlim=(75, 100.5), ylim=(0.8, 8))
    all_axes[0].set_ylabel("replica-seconds for a second of work")
    all_axes[0].legend(frameon=False, fontsize=7)
    figure.tight_layout()
    figure.savefig(FOLDER / "scaling-cost.png", dpi=110)
