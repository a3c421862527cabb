"""The same view again and again, until Ctrl-C."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import click

from core.cli.colors import Paint
from core.cli.exit_codes import ExitCode
from core.cli.types import Seconds

View = tuple[list[str], ExitCode]
"""Lines to show, and the exit code if this is the last view."""


def watch_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds --watch and --interval."""
    command = click.option("--interval", type=Seconds(), default=2.0, help="Seconds between two looks. Default: 2.")(
        command
    )
    return click.option("--watch", is_flag=True, help="Look again and again, until Ctrl-C.")(command)


def show(look: Callable[[], View], *, watch: bool, interval_s: float) -> ExitCode:
    """Shows one view, or one after the other: in one place on a terminal, line after line elsewhere."""
    paint = Paint(sys.stdout)
    shown = 0
    while True:
        lines, code = look()
        if shown and paint.terminal:
            # Up to where the last view began, and clear from there on. Nothing to restore at the end.
            sys.stdout.write(f"\x1b[{shown}F\x1b[J")
        for line in lines:
            paint.line(line)
        if not watch:
            return code
        shown = len(lines)
        time.sleep(interval_s)
