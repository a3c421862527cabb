"""`sarai health`: whether a skill serves, and its state."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any

import click

from core.cli.common import ExitCode, common_options, message_dict, start_command
from core.cli.parameters import Seconds
from core.cli.pool import DEFAULT_SKILL, complete_skill, config_with_target
from core.cli.views import View, show, watch_options

if TYPE_CHECKING:
    from core.pool.client import SkillClient

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
    from core.plugins import get_plugins
    from core.pool.client import SkillClient
    from core.pool.targets import resolve_all, split_targets

    settings = start_command()
    spec = get_plugins().skill(skill)
    config = config_with_target(spec, target)
    targets = split_targets(config.target_of(spec) or f"127.0.0.1:{spec.port}", spec.target_variable)
    with contextlib.ExitStack() as stack:
        addresses = resolve_all(targets) or targets
        clients = [stack.enter_context(SkillClient.at(spec, address, config)) for address in addresses]

        def look() -> View:
            states = [_ask(client, spec.health_service, timeout) for client in clients]
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
        flat |= {f"{name}.{part}": each for part, each in value.items()} if isinstance(value, dict) else {name: value}
    width = max(map(len, flat))
    return [f"{name:<{width}}  {_plain(value)}" for name, value in flat.items() if value not in ("", [])]


def _ask(client: SkillClient, health_service: str, timeout_s: float) -> dict[str, Any]:
    from core.errors import CallError, DeadlineError
    from core.rpc.health import check_serving

    where = {"skill": client.skill, "target": client.target}
    try:
        answer = client.Health(timeout=timeout_s)
    except DeadlineError:
        why = f"no answer within {timeout_s:g} s (--timeout); `sarai logs {client.skill}` shows a container's log"
        return {**where, "status": "UNREACHABLE", "message": why}
    except CallError as error:
        return {**where, "status": "UNREACHABLE", "message": str(error)}
    except AttributeError:  # the skill's own service has no Health, but there is the standard one
        serving = check_serving(client.target, health_service, timeout_s=timeout_s)
        message = "" if serving else f"it does not say SERVING; `sarai serve {client.skill}` starts it"
        return {**where, "status": "SERVING" if serving else "UNREACHABLE", "message": message}
    return where | message_dict(answer)


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:.1f}" if isinstance(value, float) else str(value)
