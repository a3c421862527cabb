"""Pictures of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl

from bench.records import Record
from bench.run import CEILING
from bench.table import COLUMNS, LABELS, METRICS, value

mpl.use("Agg")

from matplotlib import pyplot as plt

_CONCURRENCY = (1, 2, 4, 8, 16)
_BARS = {
    "c": ("tok_s", "8 at once, one system prompt: tok/s"),
    "d": ("longest_gap_ms", "longest gap while long prompts arrive, ms"),
    "e": ("tok_s", "draft, reflect, correct: tok/s"),
    "f": ("tok_s", "four candidates: tok/s"),
}


def plots(records: Sequence[Record], folder: Path) -> list[Path]:
    """Writes a PNG for each model: throughput by concurrency, and bars of the other workloads."""
    folder.mkdir(parents=True, exist_ok=True)
    return [_plot(records, model, folder) for model in sorted({r.model for r in records})]


def _plot(records: Sequence[Record], model: str, folder: Path) -> Path:
    figure, axes = plt.subplots(1, 1 + len(_BARS), figsize=(22, 4.5), layout="constrained")
    _throughput(axes[0], records, model)
    for axis, (workload, (name, title)) in zip(axes[1:], _BARS.items(), strict=True):
        metric = next(m for m in METRICS if (m.workload, m.figure) == (workload, name))
        rows = [(s, v) for s in COLUMNS if s != CEILING and (v := value(records, model, s, metric))]
        if rows:
            errors = [[v.median - v.low for _, v in rows], [v.high - v.median for _, v in rows]]
            labels, colors = [LABELS[s] for s, _ in rows], [_color(s) for s, _ in rows]
            axis.barh(labels, [v.median for _, v in rows], xerr=errors, color=colors)
        axis.invert_yaxis()
        axis.set_title(title)
    figure.suptitle(model)
    path = folder / f"{model}.png"
    figure.savefig(path, dpi=90)
    plt.close(figure)
    return path


def _throughput(axis: plt.Axes, records: Sequence[Record], model: str) -> None:
    for server in COLUMNS:
        points = []
        for n in _CONCURRENCY:
            metric = next(m for m in METRICS if m.figure == f"tok_s@{n}")
            if found := value(records, model, server, metric):
                points.append((n, found.median))
        if points:
            style = "--" if server == CEILING else "o-"
            axis.plot(*zip(*points, strict=True), style, color=_color(server), label=LABELS[server])
    axis.set_xscale("log", base=2)
    axis.set_xlabel("requests at once")
    axis.set_ylim(bottom=0)
    axis.set_title("different prompts: tok/s")
    if axis.lines:
        axis.legend(fontsize="small")


def _color(server: str) -> str:
    """The same in every picture."""
    return "black" if server == CEILING else f"C{COLUMNS.index(server)}"
