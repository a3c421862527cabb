"""What llama.cpp itself makes of the same work with nothing around it: its own benchmarks."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from bench.prompting import WRITE_ON_TOKENS
from bench.servers import CELLS, llama_binary
from bench.site import Figures
from bench.sizes import Sizes

TIMEOUT_S = 600.0


def ceilings(model: Path, sizes: Sizes, *, threads: int, log: Path) -> Figures:
    """Decode speed of one sequence, and generated tokens a second of several, prefill included."""
    figures: Figures = {"decode_tok_s": _decode_rate(model, sizes, threads, log)}
    for row in _batched(model, sizes, threads, log):
        figures[f"tok_s@{row['pl']}"] = row["pl"] * row["tg"] / row["t"]
    return figures


def _decode_rate(model: Path, sizes: Sizes, threads: int, log: Path) -> float:
    """At the depth where workload (a) decodes."""
    arguments = ("-p", "0", "-n", str(sizes.one_new), "-d", str(sizes.prompt), "-r", "3", "-o", "json")
    (row,) = json.loads(_run("llama-bench", model, threads, arguments, log))
    return float(row["avg_ts"])


def _batched(model: Path, sizes: Sizes, threads: int, log: Path) -> list[dict[str, Any]]:
    counts = ",".join(map(str, sizes.concurrency))
    prompt = str(sizes.prompt + WRITE_ON_TOKENS)
    arguments = ("-c", str(CELLS), "-npp", prompt, "-ntg", str(sizes.new), "-npl", counts,
                 "--output-format", "jsonl")  # fmt: skip
    lines = _run("llama-batched-bench", model, threads, arguments, log).splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]


def _run(name: str, model: Path, threads: int, arguments: tuple[str, ...], log: Path) -> str:
    with log.open("ab") as stream:
        return subprocess.run(
            [str(llama_binary(name)), "-m", str(model), "-t", str(threads), *arguments],
            stdout=subprocess.PIPE, stderr=stream, timeout=TIMEOUT_S, check=True, text=True,
        ).stdout  # fmt: skip
