"""`python -m bench.scaling run|table|publish`: autoscaling in virtual time (docs/autoscaling.md)."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bench.scaling.runs import Result, cases
from bench.scaling.table import publish, table

RESULTS = Path(__file__).with_name("results.json")
PARTS = list(dict.fromkeys(part for part, _, _ in cases()))


def _timed(case: Callable[..., list[Result]], arguments: tuple[Any, ...]) -> list[Result]:
    began_s = time.process_time()
    results = case(*arguments)
    for each in results[:1]:
        each.cpu_s = round(time.process_time() - began_s, 1)
    return results


def _run(parts: list[str], only: str, jobs: int) -> None:
    """Run cases, and write what comes of each as it comes; the results of others stay."""
    results = {_key(each): each for each in (read() if (parts or only) and RESULTS.exists() else [])}
    todo = [
        (f"{case.__name__} {', '.join(map(str, arguments))}", case, arguments) for part, case, arguments in cases()
        if not parts or part in parts
    ]  # fmt: skip
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with ProcessPoolExecutor(jobs) as pool, Progress(*columns, console=Console(stderr=True)) as progress:
        waiting = {pool.submit(_timed, case, arguments): name for name, case, arguments in todo if only in name}
        bar = progress.add_task("simulating", total=len(waiting))
        for done in as_completed(waiting):
            new = done.result()
            results |= {_key(each): each for each in new}
            rows = ",\n".join(json.dumps(dataclasses.asdict(each)) for _, each in sorted(results.items()))
            RESULTS.write_text(f"[\n{rows}\n]\n", encoding="utf-8")
            progress.console.print(f"{sum(each.cpu_s for each in new):5.1f} s  {waiting[done]}", highlight=False)
            progress.advance(bar)


def _key(result: Result) -> tuple[str, str, float, str]:
    return result.load, result.policy, result.start_s, result.setting


def read() -> list[Result]:
    """Return the results of the last run."""
    return [Result(**each) for each in json.loads(RESULTS.read_text(encoding="utf-8"))]


def main() -> int:
    """Run a command; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.scaling", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    runs = commands.add_parser("run", help="run everything, or some of it, then print the table")
    runs.add_argument("parts", nargs="*", metavar="PART", help=f"only these: {', '.join(PARTS)}")
    runs.add_argument("--only", default="", help="only cases whose description has this in it")
    runs.add_argument("--jobs", type=int, default=1, help="processes at a time")
    commands.add_parser("table", help="print the table of the last run")
    commands.add_parser("publish", help="put it into docs/autoscaling.md, and draw the plots (needs matplotlib)")
    arguments = parser.parse_args()
    if arguments.command == "run":
        if unknown := set(arguments.parts) - set(PARTS):
            parser.error(f"no such part: {', '.join(sorted(unknown))}")
        _run(arguments.parts, arguments.only, arguments.jobs)
    if arguments.command == "publish":
        from bench.scaling.plots import plots

        plots(read())
        publish(read())
    else:
        print(table(read()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
