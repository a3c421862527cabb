"""`sarai up`: start skills in containers and wait until they serve."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import time
from typing import TYPE_CHECKING

import click

from core.cli.common import ExitCode, Settings, common_options, print_json, start_command
from core.cli.containers import chosen_skills, run_command, skills_argument, tell_command
from core.cli.parameters import Seconds, Whole
from core.cli.streams import Paint

if TYPE_CHECKING:
    from core.local.compose import Container, Project
    from core.skill import SkillSpec

_EPILOG = """\b
Examples:
  sarai up
  sarai up draft --build
  sarai up draft --scale 2
  sarai up --dry-run
"""
_LOOK_EVERY_S = 0.25
_TELL_EVERY_S = 10.0


@click.command(epilog=_EPILOG, short_help="Start skills in containers, and wait until they serve.")
@skills_argument
@click.option("--build", is_flag=True, help="Build the images again, even if they exist.")
@click.option("--scale", type=Whole(1, 64), metavar="N", help="N containers of each SKILL, each on its own port.")
@click.option("--timeout", type=Seconds(), default=300.0, help="Wait so long until they serve, seconds. Default: 300.")
@click.option("--dry-run", is_flag=True, help="Only print the commands.")
@common_options
def up(*, skills: tuple[str, ...], build: bool, scale: int | None, timeout: float, dry_run: bool) -> int:
    """Start each SKILL, by default all, in containers, and wait until they are SERVING.

    It uses `docker compose` or `docker-compose`, whichever is installed, and the compose project of the source tree,
    whatever COMPOSE_FILE and COMPOSE_PROJECT_NAME say. An image that is not there is built, which takes minutes the
    first time. The exit code is 3 if one of them does not serve; it is left as it is then, for `sarai logs`.
    """
    from core.local.compose import BASE_FILE, SCALE_FILE, find_project

    settings = start_command()
    project = find_project()
    if scale is not None:
        files = (project.folder / BASE_FILE, project.folder / SCALE_FILE)
        project = dataclasses.replace(project, files=files)
    specs = chosen_skills(project, skills)
    for command in _commands(project, specs, build=build, scale=scale):
        tell_command(command, project, settings, dry_run=dry_run)
        if not dry_run and (code := run_command(command, project, settings)):
            print(f"error: `{' '.join(command)}` ended with exit code {code}", file=sys.stderr)
            return ExitCode.FAILED
    if dry_run:
        return ExitCode.OK
    until_s = time.monotonic() + timeout
    served = [_wait_serving(project, spec, settings, until_s) for spec in specs]
    return ExitCode.OK if all(served) else ExitCode.UNAVAILABLE


def _commands(project: Project, specs: list[SkillSpec], *, build: bool, scale: int | None) -> list[list[str]]:
    from core.local.compose import build_command, has_image

    builds = [
        build_command(project, spec.container, spec.image) for spec in specs if build or not has_image(spec.image)
    ]
    scales = [f"--scale={spec.container}={scale}" for spec in specs] if scale is not None else []
    return [*builds, project.argv("up", "-d", *scales, *(spec.container for spec in specs))]


def _wait_serving(project: Project, spec: SkillSpec, settings: Settings, until_s: float) -> bool:
    """Watch the containers of a skill until all of them serve, or one of them has failed. Return whether all serve."""
    begin_s, tell = time.monotonic(), _Teller(spec, settings)
    while True:
        containers = project.containers(spec.container)
        waiting = [each for each in containers if not _serves(each, spec)]
        elapsed_s = time.monotonic() - begin_s
        if containers and not waiting:
            for each in containers:
                tell.serving(each, elapsed_s)
            return True
        for each in waiting:
            if why := _hopeless(each, spec):
                tell.failed(each, why)
                return False
        if time.monotonic() > until_s:
            tell.failed(waiting[0] if waiting else None, "not SERVING in time")
            return False
        tell.waiting(waiting, elapsed_s)
        time.sleep(_LOOK_EVERY_S)


def _serves(container: Container, spec: SkillSpec) -> bool:
    from core.rpc.health import check_serving

    target = container.ports.get(spec.port)
    return target is not None and check_serving(target, spec.health_service, timeout_s=2.0)


def _hopeless(container: Container, spec: SkillSpec) -> str:
    """Return why waiting for a container is pointless; empty if it is not."""
    from core.errors import CallError
    from core.pool.client import SkillClient

    if container.ended:
        return f"{container.state} with exit code {container.exit_code}"
    if container.health == "unhealthy":
        return "unhealthy"
    target = container.ports.get(spec.port)
    if target is None:
        return ""
    with SkillClient.at(spec, target) as client, contextlib.suppress(CallError):
        health = client.Health(timeout=1.0)
        if health.status == "NOT_SERVING":
            return str(health.message) or "NOT_SERVING"
    return ""


class _Teller:
    """Reports while containers start: a line at each change, and regular signs of life."""

    def __init__(self, spec: SkillSpec, settings: Settings) -> None:
        self._spec, self._settings = spec, settings
        self._paint = Paint(sys.stderr)
        self._last, self._last_s = "", 0.0

    def waiting(self, containers: list[Container], elapsed_s: float) -> None:
        """Report that containers do not serve yet."""
        states = ", ".join(f"{each.name} {each.state}" for each in containers) or "no container yet"
        if self._settings.quiet or (states == self._last and elapsed_s - self._last_s < _TELL_EVERY_S):
            return
        self._last, self._last_s = states, elapsed_s
        if self._settings.json:
            print_json({"event": "waiting", "skill": self._spec.name, "states": states, "elapsed_s": elapsed_s})
        else:
            self._paint.line(f"waiting for the {self._spec.name} skill: {states}, {elapsed_s:.0f} s", dim=True)

    def serving(self, container: Container, elapsed_s: float) -> None:
        """Report that a container serves."""
        target = container.ports[self._spec.port]
        if self._settings.json:
            about = {"container": container.name, "target": target, "elapsed_s": elapsed_s}
            print_json({"event": "serving", "skill": self._spec.name, **about})
        elif not self._settings.quiet:
            self._paint.line(f"{container.name} serves the {self._spec.name} skill at {target} ({elapsed_s:.1f} s)")

    def failed(self, container: Container | None, why: str) -> None:
        """Report that a container failed to serve."""
        name = container.name if container else self._spec.container
        if self._settings.json:
            print_json({"event": "failed", "skill": self._spec.name, "container": name, "message": why})
        print(f"error: {name} does not serve: {why} (sarai logs {self._spec.name})", file=sys.stderr)
