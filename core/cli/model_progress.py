"""The progress of a download: bytes, rate and time left, as a bar on a terminal, as occasional lines elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from core.cli.common import Settings
from core.cli.streams import Paint

if TYPE_CHECKING:
    from rich.progress import Progress

    from core.models.fetch import Watcher

_EVERY_S = 10.0


@contextlib.contextmanager
def shown_progress(name: str, settings: Settings) -> Iterator[Watcher]:
    """Show the stages of a file on standard error: a bar on a terminal, lines elsewhere, nothing if quiet."""
    if settings.quiet or settings.json:
        yield _Silent()
    elif Paint(sys.stderr).can_redraw:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(),
                   TimeRemainingColumn())  # fmt: skip
        with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
            yield _Bar(name, progress)
    else:
        yield _Lines(name)


class _Silent:
    def stage(self, what: str, total: int, done: int) -> None:
        """Show nothing."""

    def at(self, done: int) -> None:
        """Show nothing."""


class _Bar:
    """A bar that restarts with each stage."""

    def __init__(self, name: str, progress: Progress) -> None:
        self._name, self._progress = name, progress
        self._task = progress.add_task(name, total=None)

    def stage(self, what: str, total: int, done: int) -> None:
        # A new task, so that bytes that were present already do not count as speed.
        self._progress.remove_task(self._task)
        self._task = self._progress.add_task(f"{what} {self._name}", total=total or None, completed=done)

    def at(self, done: int) -> None:
        self._progress.update(self._task, completed=done)


class _Lines:
    """A line at the start of each stage, and every ten seconds."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._what, self._total, self._first = "", 0, 0
        self._begin_s = self._told_s = 0.0

    def stage(self, what: str, total: int, done: int) -> None:
        self._what, self._total, self._first = what, total, done
        self._begin_s = self._told_s = time.monotonic()
        resumed = f", from {done / 1e6:,.0f} MB on" if done else ""
        of = f" of {total / 1e6:,.0f} MB" if total else ""
        print(f"{what} {self._name}{of}{resumed}", file=sys.stderr)

    def at(self, done: int) -> None:
        now_s = time.monotonic()
        if now_s - self._told_s < _EVERY_S:
            return
        self._told_s = now_s
        rate = (done - self._first) / (now_s - self._begin_s)
        left = f", {(self._total - done) / rate:,.0f} s left" if self._total and rate > 0 else ""
        print(f"{self._what} {self._name}: {done / 1e6:,.0f} MB, {rate / 1e6:.1f} MB/s{left}", file=sys.stderr)
