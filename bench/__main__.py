"""`python -m bench run|table|publish|kernels|overhead|memory|masks`; `make bench` is the first one, all set up."""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import time
from pathlib import Path

from bench.container_memory import container_memory
from bench.kernels import kernels
from bench.masks import masks
from bench.overhead import overhead
from bench.plots import plots
from bench.records import PUBLISHED, RESULTS, Journal, about_this_run, read_results, warn_if_busy
from bench.run import Plan, run
from bench.servers import KINDS
from bench.sizes import SIZES
from bench.table import table, write_into_readme
from bench.workloads import WORKLOADS
from skills.runtime.resources import usable_cpus


def _words(text: str) -> tuple[str, ...]:
    return tuple(word for word in text.split(",") if word)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    measure = commands.add_parser("run", help="measure, and write results, table and plots to bench/results/")
    measure.add_argument("--quick", action="store_true", help="only check that everything runs")
    measure.add_argument("--only", type=_words, default=(), help=f"comma-separated: {','.join(WORKLOADS)}")
    measure.add_argument("--servers", type=_words, default=(),
                         help=f"comma-separated: {','.join(kind.name for kind in KINDS)},ceiling")  # fmt: skip
    measure.add_argument("--model", choices=tuple(SIZES), help="only this model")
    measure.add_argument("--rounds", type=int, help="rounds for each model")
    measure.add_argument("--threads", type=int, default=usable_cpus(), help="CPU threads of every server")
    measure.add_argument("--seed", type=int, default=int(time.time()), help="determines the order")
    measure.add_argument("--into", type=Path, help="the folder of an interrupted run, to continue it")
    for name, help_ in (
        ("table", "print the table of a results file"),
        ("publish", "put it and plots into the README"),
    ):
        command = commands.add_parser(name, help=help_)
        command.add_argument("results", type=Path, nargs="?", default=PUBLISHED, help="results.json of a run")
    share = commands.add_parser("overhead", help="Python's share of an engine step")
    share.add_argument("--threads", type=int, default=usable_cpus())
    share.add_argument("--steps", type=int, default=60, help="steps to measure for each number of sequences")
    nodes = commands.add_parser("kernels", help="our kernels and llama.cpp's, node by node and in whole steps")
    nodes.add_argument("--variants", type=_words, default=(), help="variants of the CPU library: zen4,haswell")
    nodes.add_argument("--model", choices=tuple(SIZES), help="whole steps of this model only")
    nodes.add_argument("--threads", type=int, nargs="+", default=sorted({1, usable_cpus()}))
    commands.add_parser("masks", help="what a constraint costs")
    memory = commands.add_parser("memory", help="the 4B in its container: baseline, mean and peak under mixed requests")
    memory.add_argument("--requests", type=int, default=500)
    memory.add_argument("--callers", type=int, default=4)
    memory.add_argument("--seed", type=int, default=int(time.time()))
    memory.add_argument("--limit", type=int, default=3072, help="the container's memory limit, MiB")
    memory.add_argument("--images", action="store_true", help="one request in ten is about an image")
    memory.add_argument("--packed", action="store_true", help="the engine maps a packed copy of the model")
    return parser


def _run(arguments: argparse.Namespace) -> int:
    warn_if_busy()
    plan = Plan(
        models=(arguments.model,) if arguments.model else tuple(SIZES),
        workloads="".join(arguments.only or WORKLOADS),
        servers=arguments.servers,
        quick=arguments.quick,
        rounds=arguments.rounds,
        threads=arguments.threads,
        seed=arguments.seed,
    )
    journal = Journal(arguments.into or RESULTS / time.strftime("%Y%m%d-%H%M%S"))
    about = about_this_run(journal.folder, sys.argv[1:], threads=plan.threads)
    try:
        run(plan, journal)
    except KeyboardInterrupt:
        sys.stderr.write(f"interrupted; continue with --into {journal.folder}\n")
        return 130
    finally:
        path = journal.write_json(about)
    text = table(about, journal.records)
    (journal.folder / "table.md").write_text(text, encoding="utf-8")
    plots(journal.records, journal.folder)
    sys.stdout.write(text + "\n")
    failed = [record for record in journal.records if record.error]
    sys.stderr.write(f"{path}: {len(journal.records)} measurements, {len(failed)} failed\n")
    return 1 if failed else 0


def _table(arguments: argparse.Namespace) -> int:
    about, records = read_results(arguments.results)
    text = table(about, records)
    if arguments.command == "table":
        sys.stdout.write(text + "\n")
        return 0
    folder = PUBLISHED.parent / "plots"
    for earlier in folder.glob("*.png"):
        earlier.unlink()
    write_into_readme(text, plots(records, folder))
    if arguments.results.resolve() != PUBLISHED.resolve():
        shutil.copyfile(arguments.results, PUBLISHED)
    return 0


def main() -> int:
    """Run a command; return its exit code."""
    # Same end as for Ctrl-C, so that no server is left behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    arguments = _parser().parse_args()
    if arguments.command == "run":
        return _run(arguments)
    if arguments.command == "overhead":
        return overhead(threads=arguments.threads, steps=arguments.steps)
    if arguments.command == "kernels":
        models = (arguments.model,) if arguments.model else tuple(SIZES)
        return kernels(names=arguments.variants, models=models, threads=arguments.threads)
    if arguments.command == "masks":
        return masks()
    if arguments.command == "memory":
        return container_memory(
            requests=arguments.requests, callers=arguments.callers, seed=arguments.seed, limit_mib=arguments.limit,
            images=arguments.images, packed=arguments.packed,
        )  # fmt: skip
    return _table(arguments)


if __name__ == "__main__":
    sys.exit(main())
