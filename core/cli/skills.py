"""`sarai skills`: what there is, where it runs, and which plugins failed."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import click

from core.cli.colors import Paint
from core.cli.exit_codes import ExitCode
from core.cli.settings import common_options, start_command
from core.cli.watch import View, show, watch_options

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
  unreachable  SARAI_<NAME>_TARGET names the target, but nobody says SERVING there
  on demand    it does not run; the first call starts it as a local process
  failed       its plugin could not be loaded
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One skill, or one plugin that failed."""

    name: str
    state: str
    target: str
    where: str
    """How the target was found: `address`, `container` or `running`; empty where it does not run."""
    version: str
    summary: str


@click.command(epilog=_EPILOG, short_help="List skills, where they run, and plugins that failed.")
@watch_options
@common_options
def skills(*, watch: bool, interval: float) -> int:
    """Lists all skills with their state and target, and the plugins that failed with their error. Starts nothing.

    The environment variable SARAI_<NAME>_TARGET names the address of a skill.
    """
    from core.config import PoolConfig
    from core.plugins import get_plugins

    settings = start_command()
    plugins, config = get_plugins(), PoolConfig.from_env()

    def look() -> View:
        rows = [_row(spec, config) for spec in plugins.skills.values()]
        rows += [
            Row(name=error.name, state="failed", target=error.path, where="", version="", summary=str(error.exception))
            for error in plugins.errors
        ]
        lines = [json.dumps(asdict(row), ensure_ascii=False) for row in rows] if settings.json else _table(rows)
        return lines, ExitCode.OK

    return show(look, watch=watch, interval_s=interval)


def _row(spec: SkillSpec, config: PoolConfig) -> Row:
    from core.backends.address import find_running
    from core.backends.health import check_serving

    target = config.target_of(spec)
    if target is not None:
        serving = check_serving(target, spec.health_service, timeout_s=config.probe_timeout_s)
        state, where = ("serving" if serving else "unreachable"), "address"
    else:
        running = find_running(spec, config)
        found = ("serving", running.target, running.origin) if running else ("on demand", "", "")
        state, target, where = found
    return Row(name=spec.name, state=state, target=target, where=where, version=spec.version, summary=spec.summary)


def _table(rows: list[Row]) -> list[str]:
    """The rows in columns, no wider than the terminal where there is one."""
    from core.cli.figures import table

    cells = [("NAME", "STATE", "TARGET", "WHERE", "VERSION", "SUMMARY")]
    for row in rows:
        cells += [
            (
                row.name,
                row.state,
                row.target or "-",
                row.where or "-",
                row.version or "-",
                " ".join(row.summary.split()),
            )
        ]
    lines = table(cells, left=len(cells[0]))
    if Paint(sys.stdout).terminal:
        import shutil

        columns = shutil.get_terminal_size().columns
        lines = [line if len(line) <= columns else line[: columns - 1] + "…" for line in lines]
    return lines
