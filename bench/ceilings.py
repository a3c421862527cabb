"""Ceilings: llama.cpp's own benchmarks on the same work, without a server."""

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
    """Return the decode speed of one sequence, and the generated tokens a second of several, including prefill."""
    figures: Figures = {"decode_tok_s": _decode_rate(model, sizes, threads, log)}
    for row in _batched(model, sizes, threads, log):
        figures[f"tok_s@{row['pl']}"] = row["pl"] * row["tg"] / row["t"]
    return figures


def _decode_rate(model: Path, sizes: Sizes, threads: int, log: Path) -> float:
    """Return the decode speed at the context length of workload (a)."""
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
