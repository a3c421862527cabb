"""`sarai health`: whether a skill serves, and how it is."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from core.cli.exit_codes import ExitCode
from core.cli.pool import DEFAULT_SKILL, complete_skill, config_with_target, find_spec
from core.cli.settings import common_options, start_command
from core.cli.types import Seconds
from core.cli.watch import View, show, watch_options

if TYPE_CHECKING:
    from core.client import SkillClient

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
    """Asks the server of SKILL how it is. Starts none.

    The exit code is 0 if it is SERVING and 3 if it is not, or is not there. The environment variable SARAI_SKILL
    names the default SKILL, SARAI_<NAME>_TARGET its address.
    """
    from core.backends.address import AddressReplica
    from core.client import SkillClient

    settings = start_command()
    spec = find_spec(skill)
    config = config_with_target(spec, target)
    address = config.target_of(spec) or f"127.0.0.1:{spec.port}"
    with SkillClient(spec, AddressReplica(address, "address"), config) as client:

        def look() -> View:
            state = _ask(client, timeout)
            code = ExitCode.OK if state["status"] == "SERVING" else ExitCode.UNAVAILABLE
            if settings.json:
                return [json.dumps(state, ensure_ascii=False)], code
            if settings.quiet:
                return [], code
            width = max(map(len, state))
            return [f"{name:<{width}}  {_plain(value)}" for name, value in state.items() if value != ""], code

        return show(look, watch=watch, interval_s=interval)


def _ask(client: SkillClient, timeout_s: float) -> dict[str, Any]:
    from core.cli.figures import message_dict
    from core.errors import CallError

    where = {"skill": client.skill, "target": client.target}
    try:
        answer = client.Health(timeout=timeout_s)
    except CallError as error:
        return {**where, "status": "UNREACHABLE", "message": str(error)}
    return where | message_dict(answer)


def _plain(value: Any) -> str:
    return f"{value:.1f}" if isinstance(value, float) else str(value)
