"""`sarai serve`: run the server of a skill in the foreground."""

from __future__ import annotations

import os
import sys

import click

from core.cli.common import ExitCode, common_options, print_json, start_command
from core.cli.pool import DEFAULT_SKILL, complete_skill

_EPILOG = """\b
Examples:
  sarai serve
  sarai serve draft --listen 127.0.0.1:50061
  sarai serve draft -- --threads 2
  SKILL_DRAFT_N_CTX=4096 sarai serve

\b
The server reads its own variables, SKILL_<NAME>_*, for example SKILL_DRAFT_LISTEN and SKILL_DRAFT_MODEL. What
follows -- is passed to it unchanged; `sarai serve -- --help` shows its own options.
"""


@click.command(epilog=_EPILOG, short_help="Run a skill's server in the foreground.")
@click.argument("skill", default=DEFAULT_SKILL, envvar="SARAI_SKILL", shell_complete=complete_skill)
@click.argument("server_options", metavar="[-- OPTIONS…]", nargs=-1, type=click.UNPROCESSED)
@click.option("--listen", metavar="ADDRESS", help="host:port or unix:/path. Default: the server's own.")
@common_options
def serve(skill: str, listen: str | None, server_options: tuple[str, ...]) -> int:
    """Run the server of SKILL in the foreground, until Ctrl-C or SIGTERM, which let running requests finish.

    The exit code is the server's. With --json, one line reports what is started. The environment variable SARAI_SKILL
    names the default SKILL.
    """
    from core.local.process import server_environment
    from core.plugins import get_plugins

    settings = start_command()
    if skill.startswith("-"):  # `sarai serve -- --threads 2`
        skill, server_options = DEFAULT_SKILL, (skill, *server_options)
    spec = get_plugins().skill(skill)
    command = [sys.executable, *spec.serve, *(("--listen", listen) if listen else ()), *server_options]
    if settings.json:
        print_json({"event": "starting", "skill": skill, "pid": os.getpid(), "command": command})
    try:
        # Replaces this process, so that signals reach the server and the exit code is its own.
        os.execve(sys.executable, command, server_environment())  # noqa: S606  # no shell is wanted
    except OSError as error:
        print(f"error: cannot start the server: {error}", file=sys.stderr)
        return ExitCode.UNAVAILABLE
