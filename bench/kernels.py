"""Compare our kernels with llama.cpp's, node by node and in whole steps: `make bench COMMAND=kernels`.

Each process measures the kernels that llama.cpp chooses; with `SARAI_KERNELS=off` it chooses its own. Both take turns,
and the best of their rounds counts.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.ggml import ROOT, TYPES, row_bytes, variants
from bench.nodes import ATTENTION, SHAPES
from bench.records import warn_if_busy
from bench.run import model_path

ROWS = (1, 2, 3, 4, 8, 12, 16, 32, 64)
ROUNDS = 2
# Whole steps: cells of each sequence, and rows. The 4B's cache takes 113 KB a cell.
STEPS = {"135m": ("64,346,1024", "1,2,3,4,8,12,16,32"), "4b": ("64,1024", "1,2,3,4,8,12,16")}
OURS, STOCK = "ours", "llama.cpp's"
_READ_MB = 256
_VNNI = {"cascadelake", "cooperlake", "icelake", "sapphirerapids", "zen4"}

Best = dict[tuple[Any, ...], dict[str, float]]
"""For each measurement, the figure with our kernels and with llama.cpp's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The limits of a number of cores: GB/s read, and billions of 8-bit products a second."""

    read: float
    products: dict[str, float]

    def for_library(self, library: Path) -> float:
        """Return the products a second that this library's instructions allow."""
        name = _name(library)
        if name == "cpu":  # a native build
            return max(self.products.values())
        return self.products["avx512_vnni" if name in _VNNI else "avx_vnni" if name == "alderlake" else "avx2"]


def kernels(*, names: Sequence[str], models: Sequence[str], threads: Sequence[int]) -> int:
    """Print the tables. `names` are variants of the CPU library; by default the best one and the one for AVX2."""
    warn_if_busy()
    usable = variants()
    chosen = [path for path in usable if _name(path) in (names or (_name(usable[0]), "haswell"))]
    for library in chosen:
        for n in threads:
            _of_library(library, n, limits(n))
    for model in models:
        for n in threads:
            _of_model(model, n)
    return 0


def _name(library: Path) -> str:
    return library.stem.rpartition("-")[2]


def limits(cores: int) -> Limits | None:
    """Compile `limits.c` and run it on `cores` cores at once; return None without a C compiler for x86."""
    with tempfile.TemporaryDirectory() as place:
        program = Path(place) / "limits"
        source = Path(__file__).with_name("limits.c")
        compiled = subprocess.run(["cc", "-O2", str(source), "-o", str(program)], stderr=subprocess.PIPE, check=False)
        if compiled.returncode:
            sys.stderr.write("limits.c does not compile here: the tables will have no limits\n")
            return None
        running = [
            subprocess.Popen([str(program), str(_READ_MB)], stdout=subprocess.PIPE, text=True) for _ in range(cores)
        ]
        total: dict[str, float] = {}
        for process in running:
            for line in process.communicate(timeout=60)[0].splitlines():
                name, rate = line.split()
                total[name] = total.get(name, 0.0) + float(rate)
    return Limits(read=total.pop("read"), products=total)


def _lines(module: str, arguments: Sequence[str], *, ours: bool) -> Iterator[dict[str, Any]]:
    """Run `module` in a process and return the lines that it prints."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("SARAI_", "SKILL_DRAFT_", "GGML_"))}
    if not ours:
        environment["SARAI_KERNELS"] = "off"
    python = str(ROOT / ".venv" / "bin" / "python")
    done = subprocess.run(
        [python, "-m", module, *arguments], cwd=ROOT, env=environment, check=False, text=True, capture_output=True
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{module} failed:\n{done.stderr[-2000:]}")
    return (json.loads(line) for line in done.stdout.splitlines())


def _both(module: str, arguments: Sequence[str], *, figure: str = "ms") -> Best:
    """Run with both kinds of kernels in turn; keep the lowest `figure`, or the highest rate."""
    best: Best = {}
    for _ in range(ROUNDS):
        for whose in (OURS, STOCK):
            for line in _lines(module, arguments, ours=whose == OURS):
                line.pop("chosen", None)
                name = figure if figure in line else "tok_s"
                value = line.pop(name)
                seen = best.setdefault(tuple(line.items()), {})
                better = min if name == figure else max
                seen[whose] = better(value, seen.get(whose, value))
    return best


def _of_library(library: Path, threads: int, limit: Limits | None) -> None:
    best = _both("bench.nodes", [str(library), str(threads), ",".join(TYPES), ",".join(map(str, ROWS))])
    words = f"{library.stem.removeprefix('lib')}, {threads} thread{'s' * (threads > 1)}"
    sys.stdout.write(f"\n### Matrices: {words}, ms\n\n")
    _row("", "", *ROWS)
    _row(*["---"] * (2 + len(ROWS)))
    for name, (k, columns) in ((name, shape) for name, shapes in SHAPES.items() for shape in shapes):
        keys = [_key(kind="matrix", type=name, k=k, columns=columns, rows=rows) for rows in ROWS]
        label = f"{name}, {k} x {columns}"
        for whose in (OURS, STOCK):
            _row(label, whose, *(f"{best[key][whose]:.3g}" for key in keys))
        _row(label, "ratio", *(f"{best[key][STOCK] / best[key][OURS]:.2f}" for key in keys))
        if limit:
            read = row_bytes(TYPES[name], k) * columns / limit.read / 1e6
            product = k * columns / limit.for_library(library) / 1e6
            _row(label, "a plain read of the weights", *(f"{read:.3g}" for _ in ROWS))
            _row(label, "the arithmetic's limit", *(f"{product * rows:.3g}" for rows in ROWS))
    sys.stdout.write(f"\n### Attention: {words}, ms a layer\n\n")
    _row("", OURS, STOCK, "ratio")
    _row(*["---"] * 4)
    for key, seen in best.items():
        case = dict(key)
        if case["kind"] == "attention":
            what = "rows of a prompt over" if case["chunk"] else "sequences of" if case["rows"] > 1 else "sequence of"
            label = f"{case['model']} {ATTENTION[case['model']]}: {case['rows']} {what} {case['cells']} cells"
            _row(label, *_compared(seen))


def _of_model(model: str, threads: int) -> None:
    best = _both("bench.steps", [str(model_path(model)), str(threads), *STEPS[model]])
    sys.stdout.write(f"\n### Whole steps: {model}, {threads} thread{'s' * (threads > 1)}\n\n")
    _row("", OURS, STOCK, "ratio")
    _row(*["---"] * 4)
    for key, seen in best.items():
        case = dict(key)
        if case["kind"] == "prefill":
            _row("reading a prompt, tok/s", f"{seen[OURS]:.4g}", f"{seen[STOCK]:.4g}",
                 f"{seen[OURS] / seen[STOCK]:.2f}")  # fmt: skip
        else:
            _row(f"{case['rows']} row{'s' * (case['rows'] > 1)}, {case['cells']} cells each, ms", *_compared(seen))


def _key(**case: object) -> tuple[Any, ...]:
    return tuple(case.items())


def _compared(seen: dict[str, float]) -> tuple[str, str, str]:
    return f"{seen[OURS]:.3g}", f"{seen[STOCK]:.3g}", f"{seen[STOCK] / seen[OURS]:.2f}"


def _row(*cells: object) -> None:
    sys.stdout.write(f"| {' | '.join(map(str, cells))} |\n")
    sys.stdout.flush()
