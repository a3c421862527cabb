"""Plots of a run: one question each, llama.cpp's server and ours, up is better."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl

from bench.arrivals import ARRIVALS
from bench.records import Record
from bench.run import CEILING
from bench.table import LLAMA, METRICS, Metric, Value, ratio, value

mpl.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

NAMES = {"135m": "135M", "4b": "4B"}
OURS, PEER = "this server", "llama.cpp's server"
_COLORS = {OURS: "#0a6e3d", PEER: "#c2410c", "llama.cpp's own benchmark": "#6b7280"}
_CALLERS = (1, 2, 4, 8, 16)
_TICKS = (1e-3, 2e-3, 5e-3, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500)
_RATIO_TICKS = (0.25, 0.5, 1, 2, 4, 8, 16, 32, 64, 128, 256)
# Workload, figure and label of the columns in the plot of ratios.
_KINDS = (
    ("a", "decode_tok_s", "one\nstream"), ("b", "tok_s@8", "8 callers,\nown prompts"),
    ("c", "tok_s", "8 callers,\none system\nprompt"), ("f", "tok_s", "4 answers\nto one\nprompt"),
    ("e", "tok_s", "draft,\nreflect,\ncorrect"), ("h", "fields_tok_s", "JSON by\na schema"),
    ("d", "longest_gap_ms", "longest gap\nduring a\nlong prompt"),
    ("d", "arriving_first_token_ms", "first token\nof that\nprompt"),
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One server's figures by the number of callers."""

    label: str
    server: str
    style: str
    figure: str
    """Its name, up to the number of callers."""


def plots(records: Sequence[Record], folder: Path) -> list[Path]:
    """Write the plots of each model for which there are figures; return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for model in sorted({r.model for r in records}):
        paths += _throughput(records, model, folder)
        paths += _waiting(records, model, folder)
        paths += _kinds(records, model, folder)
    return paths


def _throughput(records: Sequence[Record], model: str, folder: Path) -> list[Path]:
    styles = zip(_COLORS, ("o-", "o-", "--"), strict=True)
    lines = [Line(label=server, server=server, style=style, figure="tok_s@") for server, style in styles]
    title = f"{NAMES[model]}: tokens a second for simultaneous callers, each with its own prompt"
    return _by_callers(records, model, folder / f"{model}-throughput.png", lines, title)


def _waiting(records: Sequence[Record], model: str, folder: Path) -> list[Path]:
    questions = (
        ("first", "first_ms", "seconds until the first token, on average"),
        ("whole", "whole_ms", "seconds until the answer is complete, on average"),
        ("gap", "gap_ms", "the longest gap in a stream, seconds"),
    )
    paths = []
    for name, figure, words in questions:
        lines = [
            Line(label=f"{server}, {'in a burst' if kind == 'burst' else 'at random'}", server=server, style=style,
                 figure=f"{kind}_{figure}@")
            for server in (OURS, PEER) for kind, style in zip(ARRIVALS, ("o-", "o:"), strict=True)
        ]  # fmt: skip
        title = f"{NAMES[model]}: {words}, for callers who arrive in a burst or at random"
        paths += _by_callers(records, model, folder / f"{model}-{name}.png", lines, title)
    return paths


def _by_callers(records: Sequence[Record], model: str, path: Path, lines: Sequence[Line], title: str) -> list[Path]:
    """Plot the lines, each labelled at its end; times on an inverted scale, so that up is better."""
    figure, axis = plt.subplots(figsize=(8, 5), layout="constrained")
    ends: list[tuple[float, Line]] = []
    times = False
    for line in lines:
        points = []
        for n in _CALLERS:
            metric = next((m for m in METRICS if m.figure == f"{line.figure}{n}"), None)
            if metric and (found := _of(records, model, line.server, metric)):
                times = metric.less_is_better
                scale = 1000 if times else 1
                points.append((n, found.median / scale, found.low / scale, found.high / scale))
        if points:
            callers, medians, lows, highs = zip(*points, strict=True)
            axis.plot(callers, medians, line.style, color=_COLORS[line.server], linewidth=2)
            axis.fill_between(callers, lows, highs, color=_COLORS[line.server], alpha=0.15, linewidth=0)
            ends.append((medians[-1], line))
    if not ends:
        plt.close(figure)
        return []
    if times:
        _upside_down(axis)
    else:
        axis.set_ylim(bottom=0)
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_locator(FixedLocator(_CALLERS))
    axis.xaxis.set_major_formatter(FuncFormatter(_number))
    axis.set_xlabel("callers")
    _label_ends(axis, ends)
    return [_save(figure, axis, title, path)]


def _upside_down(axis: Axes) -> None:
    axis.set_yscale("log")
    axis.yaxis.set_major_locator(FixedLocator(_TICKS))
    axis.yaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_formatter(FuncFormatter(_number))
    axis.invert_yaxis()
    axis.set_ylabel("seconds (up is better)")


def _label_ends(axis: Axes, ends: Sequence[tuple[float, Line]]) -> None:
    """Write each label to the right of its line's end, moved apart where two would overlap."""
    height = 0.055  # of a line of text, as a share of the plot
    axis.figure.canvas.draw()  # settles the scales
    to_axes = axis.transData + axis.transAxes.inverted()
    at = -1.0
    for y, line in sorted(((to_axes.transform((_CALLERS[-1], y))[1], line) for y, line in ends), key=lambda e: e[0]):
        at = max(y, at + height)
        axis.annotate(line.label, (1.01, at), xycoords="axes fraction", color=_COLORS[line.server], va="center")


def _kinds(records: Sequence[Record], model: str, folder: Path) -> list[Path]:
    """Plot columns from 1, which is llama.cpp's server, to the ratio that ours reaches."""
    columns = []
    for workload, name, words in _KINDS:
        metric = next(m for m in METRICS if (m.workload, m.figure, m.quantile) == (workload, name, None))
        ours, peer = _of(records, model, OURS, metric), _of(records, model, PEER, metric)
        if ours and peer:
            columns.append((words, ratio(metric, ours.median, peer.median)))
    if not columns:
        return []
    figure, axis = plt.subplots(figsize=(1.6 + 1.05 * len(columns), 5), layout="constrained")
    axis.set_yscale("log", base=2)
    for x, (_, times) in enumerate(columns):
        axis.bar(x, times - 1, bottom=1, width=0.7, color=_COLORS[OURS if times >= 1 else PEER])
        axis.annotate(f"{times:.2g}", (x, times), textcoords="offset points", xytext=(0, 4 if times >= 1 else -12),
                      ha="center")  # fmt: skip
    axis.set_xticks(range(len(columns)), [words for words, _ in columns], fontsize="small")
    axis.axhline(1, color=_COLORS[PEER], linewidth=2)
    axis.annotate(PEER, (1.01, 1), xycoords=("axes fraction", "data"), color=_COLORS[PEER], va="center")
    axis.yaxis.set_major_locator(FixedLocator(_RATIO_TICKS))
    axis.yaxis.set_major_formatter(FuncFormatter(_number))
    axis.margins(y=0.15)
    title = f"{NAMES[model]}: how many times as fast as llama.cpp's server"
    return [_save(figure, axis, title, folder / f"{model}-kinds.png")]


def _of(records: Sequence[Record], model: str, server: str, metric: Metric) -> Value | None:
    """Return a server's figure; for llama.cpp's server, the best of all its settings."""
    if server not in (OURS, PEER):
        return value(records, model, CEILING, metric)
    names = ("ours",) if server == OURS else LLAMA
    found = [v for name in names if (v := value(records, model, name, metric))]
    better = min if metric.less_is_better else max
    return better(found, key=lambda v: v.median, default=None)


def _save(figure: plt.Figure, axis: Axes, title: str, path: Path) -> Path:
    axis.set_title(title, loc="left", fontsize="medium")
    axis.grid(axis="y", color="#e5e7eb")
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path


def _number(number: float, _: object = None) -> str:
    return f"{number:g}"
