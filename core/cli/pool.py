"""The pool of a command: options for the skill and its address, and the progress of its start."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from typing import TYPE_CHECKING, Any

import click

from core.cli.common import Settings, current_settings, message_dict
from core.cli.streams import Paint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from click.shell_completion import CompletionItem

    from core.config import PoolConfig
    from core.local.progress import OnProgress, Progress
    from core.model_pool import ModelPool
    from core.pool.client import SkillClient
    from core.skill import SkillSpec

DEFAULT_SKILL = "draft"


def complete_skill(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the names of skills for shell completion."""
    from click.shell_completion import CompletionItem

    from core.plugins import get_plugins

    specs = get_plugins().skills.values()
    return [CompletionItem(spec.name, help=spec.summary) for spec in specs if spec.name.startswith(incomplete)]


def skill_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --skill and --target."""
    command = click.option(
        "--target",
        metavar="ADDRESS",
        help="Where the skill is, host:port or unix:/path. Default: SARAI_<NAME>_TARGET, else its port on this host, "
        "else it is started as a local process.",
    )(command)
    return click.option(
        "--skill",
        "skill",
        metavar="NAME",
        default=DEFAULT_SKILL,
        show_default=True,
        envvar="SARAI_SKILL",
        show_envvar=True,
        shell_complete=complete_skill,
        help="The skill that is asked.",
    )(command)


def config_with_target(spec: SkillSpec, target: str | None) -> PoolConfig:
    """Return the settings of the environment, with the address of --target."""
    from core.config import PoolConfig

    config = PoolConfig.from_env()
    if target is None:
        return config
    return dataclasses.replace(config, targets={**config.targets, spec.target_variable: target})


@contextlib.contextmanager
def open_pool(skill: str, target: str | None) -> Iterator[ModelPool]:
    """Provide a pool for one command. What it starts ends with the command."""
    from core.model_pool import ModelPool
    from core.plugins import get_plugins

    config = config_with_target(get_plugins().skill(skill), target)
    with ModelPool(config, on_progress=_progress(current_settings())) as pool:
        yield pool


def find_replicas(spec: SkillSpec, config: PoolConfig, *, serving: bool = True) -> dict[str, str]:
    """Return the targets of all replicas of a skill that are there, each with how it was found; none is started.

    Args:
        spec: The skill.
        config: The settings; if they list targets, there are no others.
        serving: Leave out what listens at the skill's ports without being SERVING.
    """
    from core.local.numbered import NumberedServers
    from core.pool.targets import ServersHere, resolve_all, split_targets

    text = config.target_of(spec)
    if text is not None:
        targets = split_targets(text, spec.target_variable)
        return dict.fromkeys(resolve_all(targets) or targets, "address")
    origins: dict[str, str] = {each.target: each.origin for each in ServersHere(spec, config).find(serving=serving)}
    if config.share_embedded:
        local = NumberedServers(spec, config)
        origins |= dict.fromkeys(map(local.target, local.running()), "embedded")
    return origins


@contextlib.contextmanager
def open_replicas(skill: str, target: str | None) -> Iterator[tuple[SkillSpec, list[SkillClient]]]:
    """Provide a skill and a client for each of its replicas; none is started. If there is none, one for its port."""
    from core.plugins import get_plugins
    from core.pool.client import SkillClient

    spec = get_plugins().skill(skill)
    config = config_with_target(spec, target)
    addresses = list(find_replicas(spec, config, serving=False)) or [f"127.0.0.1:{spec.port}"]
    with contextlib.ExitStack() as stack:
        yield spec, [stack.enter_context(SkillClient.at(spec, address, config)) for address in addresses]


def ask_health(client: SkillClient, health_service: str, timeout_s: float) -> dict[str, Any]:
    """Return what a replica says of itself, `UNREACHABLE` with the reason if it says nothing."""
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


def _progress(settings: Settings) -> OnProgress:
    """Return a handler that shows the start of a server on a terminal."""
    from core.local.progress import Absent, Serving, Starting, Waiting, report

    paint = Paint(sys.stderr)
    if settings.quiet or not paint.terminal:
        return report

    def show(event: Progress) -> None:
        match event:
            case Starting(skill=skill, log=log, restart=restart):
                paint.line(f"starting the {skill} skill{' again' if restart else ''} (log: {log})", dim=True)
            case Waiting(skill=skill, elapsed_s=elapsed_s):
                paint.line(f"  the {skill} skill loads, {elapsed_s:.0f} s", dim=True)
            case Serving(elapsed_s=elapsed_s):
                paint.line(f"  ready after {elapsed_s:.1f} s", dim=True)
            case Absent():
                paint.line(str(event), dim=True)

    return show
