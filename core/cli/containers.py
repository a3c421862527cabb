"""`sarai down`, `ps` and `logs`: skills in containers, by whichever compose is installed."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from core.cli.common import ExitCode, Settings, common_options, print_json, start_command
from core.cli.parameters import Whole
from core.cli.pool import complete_skill
from core.cli.views import HEADINGS, View, ask_replicas, show, table, watch_options

if TYPE_CHECKING:
    from core.local.compose import Project
    from core.skill import SkillSpec

_ESCAPES = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_DOWN_EPILOG = """\b
Examples:
  sarai down
  sarai down draft
  sarai down --dry-run
"""
_PS_EPILOG = """\b
Examples:
  sarai ps
  sarai ps --watch
  sarai ps --json | jq -r 'select(.state == "running").target'
"""
_LOGS_EPILOG = """\b
Examples:
  sarai logs
  sarai logs draft --follow
  sarai logs --tail 20
"""


def skills_argument(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the argument [SKILL]…."""
    return click.argument("skills", metavar="[SKILL]...", nargs=-1, shell_complete=complete_skill)(command)


def chosen_skills(project: Project, names: tuple[str, ...]) -> list[SkillSpec]:
    """Return the named skills, or all that are services of the project.

    Raises:
        UnknownSkillError: There is no such skill.
        ComposeError: It is not a service of this project, or compose failed.
    """
    from core.errors import ComposeError
    from core.plugins import get_plugins

    services, plugins = project.services(), get_plugins()
    if not names:
        return [spec for spec in plugins.skills.values() if spec.container in services]
    specs = [plugins.skill(name) for name in names]
    for spec in specs:
        if spec.container not in services:
            raise ComposeError(
                f"skill {spec.name} is no service of {project.folder}: it has {', '.join(services) or 'none'}, "
                f"and {spec.container} would be its name; `sarai serve {spec.name}` runs it without a container"
            )
    return specs


def tell_command(command: list[str], project: Project, settings: Settings, *, dry_run: bool) -> None:
    """Print a command that is run, or would be, as a line that can be typed here."""
    if settings.json:
        print_json({"event": "would run" if dry_run else "running", "command": command, "folder": str(project.folder)})
        return
    from core.local.compose import STEERING

    unset = [part for name in STEERING if name in os.environ for part in ("-u", name)]
    line = shlex.join(["env", *unset, *command] if unset else command)
    if project.folder != Path.cwd():
        line = f"cd {shlex.quote(str(project.folder))} && {line}"
    if dry_run:
        print(line)
    elif not settings.quiet:
        print(f"$ {line}", file=sys.stderr)


def run_command(command: list[str], project: Project, settings: Settings) -> int:
    """Run a command of the project, and return its exit code. Its output is progress, which goes to standard error.

    With --quiet or --json, that is printed only if the command fails.
    """
    from core.local.compose import environment

    silent = settings.quiet or settings.json
    done = subprocess.run(
        command, cwd=project.folder, env=environment(), stdin=subprocess.DEVNULL, stdout=sys.stderr, check=False,
        stderr=subprocess.PIPE if silent else None, text=True, errors="replace",
    )  # fmt: skip
    if silent and done.returncode:
        sys.stderr.write(done.stderr)
    return done.returncode


@click.command(epilog=_DOWN_EPILOG, short_help="Stop and remove the containers of skills.")
@skills_argument
@click.option("--dry-run", is_flag=True, help="Only print the command.")
@common_options
def down(*, skills: tuple[str, ...], dry_run: bool) -> int:
    """Stop and remove the containers of each SKILL, by default of the whole project with its network.

    Running requests finish first. Images, models and containers of other projects stay.
    """
    from core.local.compose import find_project

    settings = start_command()
    project = find_project()
    services = [spec.container for spec in chosen_skills(project, skills)] if skills else []
    command = project.argv("rm", "--stop", "--force", *services) if services else project.argv("down")
    tell_command(command, project, settings, dry_run=dry_run)
    if dry_run:
        return ExitCode.OK
    if run_command(command, project, settings):
        return ExitCode.FAILED
    if settings.json:
        print_json({"event": "down", "services": services})
    return ExitCode.OK


@click.command(epilog=_PS_EPILOG, short_help="List the containers of skills.")
@skills_argument
@watch_options
@common_options
def ps(*, skills: tuple[str, ...], watch: bool, interval: float) -> int:
    """List the containers of each SKILL, by default of all, with state, health, address, load, memory and speed.

    The exit code is 3 if one of them does not run or is unhealthy.
    """
    from core.local.compose import find_project

    settings = start_command()
    project = find_project()
    specs = chosen_skills(project, skills)

    def look() -> View:
        rows = [row for spec in specs for row in _rows(project, spec)]
        bad = any(row["state"] != "running" or row["health"] == "unhealthy" for row in rows)
        lines = [json.dumps(_as_dict(row), ensure_ascii=False) for row in rows] if settings.json else _table(rows)
        return lines, ExitCode.UNAVAILABLE if bad else ExitCode.OK

    return show(look, watch=watch, interval_s=interval)


def _rows(project: Project, spec: SkillSpec) -> list[dict[str, Any]]:
    from core.config import PoolConfig

    containers = project.containers(spec.container)
    targets = [each.ports[spec.port] for each in containers if spec.port in each.ports]
    told = {replica.target: replica for replica in ask_replicas(spec, targets, PoolConfig.from_env())}
    return [
        {
            "skill": spec.name,
            "container": each.name,
            "state": each.state,
            "health": each.health,
            "target": each.ports.get(spec.port, ""),
            "restarts": each.restarts,
            "image": each.image,
            "started": each.started,
            "replica": told.get(each.ports.get(spec.port, "")),
        }
        for each in containers
    ]


def _as_dict(row: dict[str, Any]) -> dict[str, Any]:
    """Return one flat object of what the replica and the container engine report."""
    told = asdict(row["replica"]) if row["replica"] else {}
    return {name: value for name, value in row.items() if name != "replica"} | {
        name: value for name, value in told.items() if name not in row
    }


def _table(rows: list[dict[str, Any]]) -> list[str]:
    ours = ("SKILL", "CONTAINER", "STATE", "HEALTH", "TARGET")
    cells = [
        (
            *(str(row[name.lower()]) or "-" for name in ours),
            *(row["replica"].cells() if row["replica"] else ("",) * len(HEADINGS)),
            str(row["image"]),
            str(row["started"]).split(".")[0],
        )
        for row in rows
    ]
    heading = (*ours, *HEADINGS, "IMAGE", "STARTED")
    return table([heading, *cells], left=len(heading)) if rows else []


@click.command(epilog=_LOGS_EPILOG, short_help="Show what skills in containers have logged.")
@skills_argument
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes, until Ctrl-C.")
@click.option("--tail", type=Whole(0), metavar="LINES", help="Only the last LINES lines of each.")
@common_options
def logs(*, skills: tuple[str, ...], follow: bool, tail: int | None) -> int:
    """Show the log of each SKILL's containers, by default of all. With --json, each line is an object."""
    from core.local.compose import environment, find_project

    settings = start_command()
    project = find_project()
    services = [spec.container for spec in chosen_skills(project, skills)]
    options = [*(("--follow",) if follow else ()), *((f"--tail={tail}",) if tail is not None else ())]
    command = project.argv("logs", "--no-color", *options, *services)
    with subprocess.Popen(
        command, cwd=project.folder, env=environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
        errors="replace",
    ) as process:  # fmt: skip
        assert process.stdout is not None
        for written in process.stdout:
            line = _ESCAPES.sub("", written)  # compose v2 clears lines even if its output is not a terminal
            container, bar, text = line.rstrip("\n").partition("| ")
            if not settings.json:
                sys.stdout.write(line)
            elif bar:  # compose v1 also prints what it is attached to
                print_json({"container": container.strip(), "line": text})
            sys.stdout.flush()
    return ExitCode.FAILED if process.returncode else ExitCode.OK
