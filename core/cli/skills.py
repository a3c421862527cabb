"""`sarai skills`: all skills, where they run, and the plugins that failed."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from core.cli.common import ExitCode, common_options, start_command
from core.cli.pool import find_replicas
from core.cli.streams import Paint
from core.cli.views import HEADINGS, Replica, View, ask_replicas, fit, show, table, watch_options

if TYPE_CHECKING:
    from core.config import PoolConfig
    from core.skill import SkillSpec

_EPILOG = """\b
Examples:
  sarai skills
  sarai skills --watch
  sarai skills --json | jq -r 'select(.state == "serving").target'

\b
States:
  serving      a server answers at the target
  unreachable  no server reports SERVING at the target: SARAI_<NAME>_TARGET sets it, or a local process is starting
  on demand    it does not run; the first call starts it as a local process
  failed       its plugin could not be loaded
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One replica of a skill, a skill that does not run, or a plugin that failed."""

    name: str
    state: str
    target: str
    where: str
    """How the target was found: `address`, `container`, `running` or `embedded`, which is a local process that programs
    of this user share; empty if it does not run."""
    version: str
    summary: str
    replica: Replica | None = None
    """What the replica reports."""


@click.command(epilog=_EPILOG, short_help="List skills, where they run, and plugins that failed.")
@watch_options
@common_options
def skills(*, watch: bool, interval: float) -> int:
    """List all skills with their state and target, and the plugins that failed with their error. Starts nothing.

    The environment variable SARAI_<NAME>_TARGET names the address of a skill.
    """
    from core.config import PoolConfig
    from core.plugins import get_plugins

    settings = start_command()
    plugins, config = get_plugins(), PoolConfig.from_env()

    def look() -> View:
        rows = [row for spec in plugins.skills.values() for row in _rows(spec, config)]
        rows += [
            Row(name=error.name, state="failed", target=error.path, where="", version="", summary=str(error.exception))
            for error in plugins.errors
        ]
        lines = [json.dumps(_as_dict(row), ensure_ascii=False) for row in rows] if settings.json else _table(rows)
        return lines, ExitCode.OK

    return show(look, watch=watch, interval_s=interval)


def _rows(spec: SkillSpec, config: PoolConfig) -> list[Row]:
    origins = find_replicas(spec, config)
    row = partial(Row, name=spec.name, version=spec.version, summary=spec.summary)
    rows = [
        row(
            state="serving" if replica.serving else "unreachable",
            target=replica.target,
            where=origins[replica.target],
            replica=replica,
        )
        for replica in ask_replicas(spec, list(origins), config)
    ]
    return rows or [row(state="on demand", target="", where="")]


def _as_dict(row: Row) -> dict[str, Any]:
    """Return one flat object, including what the replica reports."""
    values = asdict(row)
    told = values.pop("replica") or {}
    return values | {name: value for name, value in told.items() if name not in ("target", "serving")}


def _table(rows: list[Row]) -> list[str]:
    """Return the rows in columns, no wider than the terminal."""
    cells: list[tuple[str, ...]] = [("NAME", "STATE", "TARGET", "WHERE", *HEADINGS, "VERSION", "SUMMARY")]
    for row in rows:
        told = row.replica.cells() if row.replica else ("",) * len(HEADINGS)
        about = (row.version or "-", " ".join(row.summary.split()))
        cells.append((row.name, row.state, row.target or "-", row.where or "-", *told, *about))
    lines = table(cells, left=len(cells[0]))
    return fit(lines) if Paint(sys.stdout).terminal else lines
