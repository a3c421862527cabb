"""`sarai new-skill`: write a skill that passes its tests at once, in this tree or as a package."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from core.cli.common import ExitCode, Settings, common_options, print_json, start_command
from core.cli.parameters import Whole
from core.cli.streams import Paint

if TYPE_CHECKING:
    from core.cli.new_skill_files import Layout

    _Str = click.ParamType[str]
else:  # generic for type checkers alone before click 8.4
    _Str = click.ParamType

_EPILOG = """\b
Examples:
  sarai new-skill shout
  sarai new-skill shout --dry-run
  sarai new-skill shout --proto --port 50091
  sarai new-skill shout --package ~/sarai-skill-shout
"""


class SkillName(_Str):
    """A name that is valid for a skill, a Python package and a container."""

    name = "name"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the name."""
        if not re.fullmatch(r"[a-z][a-z0-9_]{0,62}", value):
            self.fail(f"{value!r} is not lower case letters, digits and _, a letter first, at most 63.", param, ctx)
        return value


@click.command("new-skill", epilog=_EPILOG, short_help="Write a new skill that works at once, to be changed.")
@click.argument("name", type=SkillName())
@click.option("--port", type=Whole(1024, 65528), help="Its port. Default: the next that no skill has.")
@click.option("--proto", is_flag=True, help="Give it its own messages instead of prompts and answers.")
@click.option(
    "--package", metavar="DIR", type=click.Path(path_type=Path, file_okay=False),
    help="Write an installable package to DIR instead, found by its entry point.",
)  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Only print what would be written.")
@common_options
def new_skill(*, name: str, port: int | None, proto: bool, package: Path | None, dry_run: bool) -> int:
    """Write the skill NAME to skills/skill_NAME: plugin, server, test, Dockerfile, README.

    It answers prompts in capitals; what it is to do instead is one function in its server.py. Health, reflection,
    limits, drain, status codes and metrics are those of all skills. Its service is added to the compose files, so that
    `sarai up NAME` serves it; `sarai serve NAME` and the pool do so without a container.
    """
    from core.cli.new_skill_files import Layout, choose_port, plan, write
    from core.local.compose import find_tree
    from core.plugins import get_plugins

    settings = start_command()
    others = get_plugins().skills
    if name in others:
        raise click.UsageError(f"there is a skill {name!r} already")
    chosen = choose_port(port, others.values())
    if package:
        layout = Layout.of_package(name, package)
    elif tree := find_tree():
        layout = Layout.in_tree(name, tree)
    else:
        raise click.UsageError("there is no source tree here to write into; --package DIR writes a package")
    if layout.folder.exists() and (package is None or any(layout.folder.iterdir())):
        raise click.UsageError(f"{layout.folder} is there already")
    files = plan(layout, port=chosen, proto=proto)
    if not dry_run:
        write(layout, files, proto=proto)
    for path, content in files.items():
        _tell(layout.root / path, content, settings, dry_run=dry_run)
    if not dry_run:
        _tell_next(layout, settings, proto=proto)
    return ExitCode.OK


def _tell(path: Path, content: str, settings: Settings, *, dry_run: bool) -> None:
    if settings.json:
        event = "would write" if dry_run else "wrote"
        print_json({"event": event, "path": str(path), "content": content})
    else:
        print(path)


def _tell_next(layout: Layout, settings: Settings, *, proto: bool) -> None:
    """Print what can be done with the skill now."""
    if settings.json or settings.quiet:
        return
    paint, name = Paint(sys.stderr), layout.name
    test = "pip install --editable . && pytest" if layout.installable else f"pytest {layout.tests}"
    ask = f"sarai health {name}" if proto else f'sarai draft --skill {name} "hello"'
    for line in (test, f"sarai serve {name}", ask):
        paint.line(f"  {line}", dim=True)
