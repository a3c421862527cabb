"""`python -m bench.scaling run|table|plots`: autoscaling in virtual time (docs/autoscaling.md)."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from bench.scaling.runs import Result, cases

RESULTS = Path(__file__).with_name("results.json")


def _run(only: str) -> None:
    """Run all cases, one process for each core, and write what comes of them as it comes."""
    results = _read() if only and RESULTS.exists() else []
    began_s = time.monotonic()
    with ProcessPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        waiting = {
            pool.submit(case, *arguments): f"{case.__name__} {arguments}"
            for case, arguments in cases()
            if only in f"{case.__name__} {arguments}"
        }
        for number, done in enumerate(as_completed(waiting), 1):
            new = done.result()
            names = {(each.load, each.policy, each.setting, each.start_s) for each in new}
            results = [each for each in results if (each.load, each.policy, each.setting, each.start_s) not in names]
            results += new
            sys.stderr.write(f"{time.monotonic() - began_s:4.0f} s  {number}/{len(waiting)}  {waiting[done]}\n")
            RESULTS.write_text(json.dumps([dataclasses.asdict(each) for each in results]) + "\n", encoding="utf-8")


def _read() -> list[Result]:
    return [Result(**each) for each in json.loads(RESULTS.read_text(encoding="utf-8"))]


def main() -> int:
    """Run a command; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.scaling", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    runs = commands.add_parser("run", help="run everything, then print the table")
    runs.add_argument("--only", default="", help="only cases whose description has this in it")
    commands.add_parser("table", help="print the table of the last run")
    commands.add_parser("plots", help="draw the last run into bench/plots/")
    arguments = parser.parse_args()
    if arguments.command == "run":
        _run(arguments.only)
        if arguments.only:
            return 0
    if arguments.command == "plots":
        from bench.scaling.plots import plots

        plots(_read())
        return 0
    from bench.scaling.table import table

    print(table(_read()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
