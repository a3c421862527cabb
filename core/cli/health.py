"""`sarai health`: whether a skill serves, and its state."""

from __future__ import annotations

import json
from typing import Any

import click

from core.cli.cache import kept_answers
from core.cli.common import ExitCode, common_options, start_command
from core.cli.parameters import Seconds
from core.cli.pool import DEFAULT_SKILL, ask_health, complete_skill, open_replicas
from core.cli.views import View, show, watch_options

_EPILOG = """\b
Examples:
  sarai health
  sarai health --watch
  sarai health --json --target localhost:50051 | jq .status
  until sarai health -q; do sleep 1; done
"""


@click.command(epilog=_EPILOG, short_help="Say whether a skill serves, and how it is.")
@click.argument("skill", default=DEFAULT_SKILL, envvar="SARAI_SKILL", shell_complete=complete_skill)
@click.option("--target", metavar="ADDRESS", help="Where it is. Default: SARAI_<NAME>_TARGET, else its port here.")
@click.option("--timeout", type=Seconds(), default=3.0, help="Wait so long for an answer, seconds. Default: 3.")
@watch_options
@common_options
def health(*, skill: str, target: str | None, timeout: float, watch: bool, interval: float) -> int:
    """Ask the server of SKILL, or each of its replicas, for its state. Starts none.

    The exit code is 0 if one is SERVING, or else 3. The environment variable SARAI_SKILL
    names the default SKILL, SARAI_<NAME>_TARGET its address.
    """
    settings = start_command()
    with open_replicas(skill, target) as (spec, clients):

        def look() -> View:
            states = [ask_health(client, spec.health_service, timeout) for client in clients]
            serves = any(state["status"] == "SERVING" for state in states)
            code = ExitCode.OK if serves else ExitCode.UNAVAILABLE
            if settings.json:
                return [json.dumps(state, ensure_ascii=False) for state in states], code
            if settings.quiet:
                return [], code
            return [line for state in states for line in ("", *_lines(state))][1:], code

        return show(look, watch=watch, interval_s=interval)


def _lines(state: dict[str, Any]) -> list[str]:
    flat: dict[str, Any] = {}
    for name, value in state.items():
        if name == "cache":
            flat["kept answers"] = kept_answers(value)
        elif isinstance(value, dict):
            flat |= {f"{name}.{figure}": each for figure, each in value.items()}
        else:
            flat[name] = value
    width = max(map(len, flat))
    return [f"{name:<{width}}  {_plain(value)}" for name, value in flat.items() if value not in ("", [])]


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:.1f}" if isinstance(value, float) else str(value)
