"""The output of `skills`, `ps` and `health`: what replicas report, in columns, once or repeatedly."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from core.cli.common import ExitCode
from core.cli.parameters import Seconds
from core.cli.streams import Paint

if TYPE_CHECKING:
    from collections.abc import Sequence

    from core.config import PoolConfig
    from core.skill import SkillSpec


HEADINGS = ("LOAD", "MEMORY", "TOK/S", "CACHED", "MODEL")


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """What a replica reports. None if the skill does not report it."""

    target: str
    serving: bool
    active: int | None = None
    """Running requests."""
    queued: int | None = None
    """Waiting requests."""
    ram_mb: float | None = None
    tokens_per_second: float | None = None
    """Over the last ten seconds, all requests together."""
    cached_share: float | None = None
    """Share of the prompt tokens since the start that was found in the prefix cache."""
    model: str = ""
    message: str = ""
    """Why it does not serve, by its own report or gRPC's."""

    def cells(self) -> tuple[str, ...]:
        """Return the cells below `HEADINGS`."""
        load = "" if self.active is None else f"{self.active}+{self.queued}" if self.queued else f"{self.active}"
        return (
            load,
            "" if self.ram_mb is None else f"{self.ram_mb:.0f} MB",
            "" if self.tokens_per_second is None else f"{self.tokens_per_second:.1f}",
            "" if self.cached_share is None else f"{self.cached_share:.0%}",
            self.model,
        )


def ask_replicas(spec: SkillSpec, targets: Sequence[str], config: PoolConfig) -> list[Replica]:
    """Ask the replicas at all targets concurrently."""
    if not targets:
        return []
    with ThreadPoolExecutor(len(targets)) as threads:
        return list(threads.map(lambda target: _ask(spec, target, config), targets))


def _ask(spec: SkillSpec, target: str, config: PoolConfig) -> Replica:
    from core.errors import CallError
    from core.pool.client import SkillClient

    with SkillClient.at(spec, target, config) as client:
        try:
            health: Any = client.Health(timeout=config.probe_timeout_s)
        except AttributeError:  # the skill's own service has no Health
            return _by_the_standard(spec, target, config)
        except CallError as error:
            return Replica(target=target, serving=False, message=error.details())
    engine: Any = {field.name: value for field, value in health.ListFields()}.get("engine")
    return Replica(
        target=target,
        serving=health.status in ("SERVING", "RECOVERING"),
        active=getattr(health, "active_requests", None),
        queued=getattr(health, "queued_requests", None),
        ram_mb=getattr(health, "ram_mb", None),
        tokens_per_second=engine.tokens_per_second if engine else None,
        cached_share=engine.cached_tokens / engine.prompt_tokens if engine and engine.prompt_tokens else None,
        model=getattr(health, "model", ""),
        message=getattr(health, "message", ""),
    )


def _by_the_standard(spec: SkillSpec, target: str, config: PoolConfig) -> Replica:
    from core.rpc.health import check_serving

    serving = check_serving(target, spec.health_service, timeout_s=config.probe_timeout_s)
    return Replica(target=target, serving=serving, message="" if serving else "it does not say SERVING")


def table(rows: Sequence[Sequence[str]], *, left: int) -> list[str]:
    """Return rows as lines with aligned columns.

    Args:
        rows: Rows of equal length, the heading first. Columns with nothing below it are left out.
        left: Number of columns that are aligned to the left; the others are to the right.
    """
    columns = [column for column in zip(*rows, strict=True) if any(column[1:])]
    kept = [i for i, column in enumerate(zip(*rows, strict=True)) if any(column[1:])]
    widths = [max(map(len, column)) for column in columns]
    return [
        "  ".join(
            f"{row[i]:<{width}}" if i < left else f"{row[i]:>{width}}" for i, width in zip(kept, widths, strict=True)
        ).rstrip()
        for row in rows
    ]


def fit(lines: list[str]) -> list[str]:
    """Return lines cut to the width of the terminal."""
    import shutil

    columns = shutil.get_terminal_size().columns
    return [line if len(line) <= columns else line[: columns - 1] + "…" for line in lines]


View = tuple[list[str], ExitCode]
"""Lines to show, and the exit code if this is the last view."""


def watch_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --watch and --interval."""
    command = click.option("--interval", type=Seconds(), default=2.0, help="Seconds between two looks. Default: 2.")(
        command
    )
    return click.option("--watch", is_flag=True, help="Look again and again, until Ctrl-C.")(command)


def show(look: Callable[[], View], *, watch: bool, interval_s: float) -> ExitCode:
    """Show one view, or repeated ones: in place on a terminal, line after line elsewhere."""
    paint = Paint(sys.stdout)
    shown = 0
    while True:
        lines, code = look()
        if watch and paint.terminal:
            lines = fit(lines)  # one row each, so that they can be counted
        if shown and paint.terminal:
            # Up to where the last view began, and clear the rest. Nothing has to be restored at the end.
            sys.stdout.write(f"\x1b[{shown}F\x1b[J")
        for line in lines:
            paint.line(line)
        if not watch:
            return code
        shown = len(lines)
        time.sleep(interval_s)
