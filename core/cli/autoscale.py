"""`sarai autoscale`: as many replicas of a skill on this machine as its work needs."""

from __future__ import annotations

import contextlib
import re
import sys
import threading
import time
from typing import TYPE_CHECKING

import click

from core.cli.common import ExitCode, Settings, common_options, print_json, start_command
from core.cli.parameters import Seconds, Whole
from core.cli.pool import DEFAULT_SKILL, complete_skill
from core.cli.streams import Paint

if TYPE_CHECKING:
    from collections.abc import Iterator

    from core.config import PoolConfig
    from core.scaling.replicas import Actuator
    from core.scaling.scaler import Step
    from core.scaling.waiting import WaitingCalls
    from core.skill import SkillSpec

_LOOK_EVERY_S = 0.1
_MOST_SERVED = 100
_EPILOG = """\b
Examples:
  sarai autoscale
  sarai autoscale draft --min 0 --max 4
  sarai autoscale draft --on compose --target-wait 5
  sarai autoscale --dry-run --json | jq -r .why
  sarai autoscale --stop
  sarai autoscale draft --serve 0.0.0.0:9090 --target dns:///skill-draft:50051 --max 8
"""


@click.command(epilog=_EPILOG, short_help="Run as many replicas of a skill as its work needs.")
@click.argument("skill", default=DEFAULT_SKILL, envvar="SARAI_SKILL", shell_complete=complete_skill)
@click.option(
    "--on",
    "where",
    type=click.Choice(["local", "compose"]),
    default="local",
    help="Replicas are processes of this user, or containers of the compose project. Default: local.",
)
@click.option("--min", "low", type=Whole(0), default=1, metavar="N", help="Fewest replicas. Default: 1.")
@click.option(
    "--max", "high", type=Whole(1), metavar="N", help="Most replicas. Default: one for each core; with --serve 100."
)
@click.option(
    "--target-wait",
    type=Seconds(),
    default=2.0,
    help="How long a request may wait before its prompt is read, seconds. Default: 2.",
)
@click.option("--listen", metavar="HOST:PORT", help="Where callers report calls that wait (SARAI_<NAME>_SCALER).")
@click.option(
    "--serve",
    metavar="HOST:PORT",
    help="Start and drain nothing: only tell KEDA and others, there, how many replicas are wanted (docs/cluster.md).",
)
@click.option(
    "--target", metavar="ADDRESSES", help="With --serve: where the replicas are. Default: SARAI_<NAME>_TARGET."
)
@click.option("--metrics", metavar="HOST:PORT", help="With --serve: where Prometheus reads the number.")
@click.option("--stop", is_flag=True, help="Drain all replicas that run, and end when they have gone.")
@click.option("--dry-run", is_flag=True, help="Only tell what would be done.")
@common_options
def autoscale(
    *, skill: str, where: str, low: int, high: int | None, target_wait: float, listen: str | None, serve: str | None,
    target: str | None, metrics: str | None, stop: bool, dry_run: bool,
) -> int:  # fmt: skip
    """Start and drain replicas of SKILL on this machine, by the work that they have, until Ctrl-C.

    It counts work in seconds of a replica, by the costs that each has learned, and not requests. Each replica gets
    cores of its own. Replicas that run already are adopted, and stay when this command ends, however it ends. A
    replica that goes finishes its calls or hands them over. There is one autoscaler a user. The environment variable
    SARAI_SKILL names the default SKILL.
    """
    from core.config import PoolConfig
    from core.plugins import get_plugins
    from core.scaling.lock import only_one
    from core.scaling.replicas import usable_cores
    from core.scaling.samples import Limits
    from core.scaling.scaler import Scaler
    from core.scaling.waiting import WaitingCalls

    settings = start_command()
    if serve is not None:
        from core.cli.autoscale_serve import serve_number

        if stop or dry_run or listen or where != "local":
            raise click.UsageError("--serve goes without --on, --listen, --stop and --dry-run: it starts no replicas.")
        limits = Limits(low=low, high=_MOST_SERVED if high is None else high, target_wait_s=target_wait)
        return serve_number(settings, skill, target, limits, listen=serve, metrics=metrics or "")
    if target or metrics:
        raise click.UsageError("--target and --metrics go with --serve.")
    cores = len(usable_cores())
    config, spec = PoolConfig.from_env(), get_plugins().skill(skill)
    ports = len(config.ports_of(spec)) if where == "compose" else cores
    if low > (most := min(cores if high is None else high, ports)):
        raise click.UsageError(f"--min {low} is more than the {most} replicas that there may be at most.")
    limits = Limits(low=low, high=most, target_wait_s=target_wait, cores=cores)
    waiting, teller = WaitingCalls(), _Teller(settings, dry_run=dry_run)
    with contextlib.ExitStack() as stack:
        if not dry_run:
            stack.enter_context(only_one(config.log_dir.parent))
        if listen is not None:
            stack.enter_context(_reports(spec, waiting, listen))
        actuator = _actuator(where, spec, config, dry_run=dry_run)
        if stop:
            _stop_all(actuator, settings, dry_run=dry_run)
            return ExitCode.OK
        scaler = Scaler(spec, config, actuator, limits, waiting=waiting, dry_run=dry_run)
        scaler.run(teller.tell, threading.Event().wait)
    return ExitCode.OK


def _stop_all(actuator: Actuator, settings: Settings, *, dry_run: bool) -> None:
    for each in actuator.replicas():
        if settings.json:
            print_json({"event": "would drain" if dry_run else "drain", "drains": [each.name]})
        elif not settings.quiet:
            print(f"{each.name} {'would drain' if dry_run else 'drains'}")
        if not dry_run:
            actuator.drain(each.id)
    while actuator.draining:
        time.sleep(_LOOK_EVERY_S)
        actuator.replicas()
    actuator.close()


def _actuator(where: str, spec: SkillSpec, config: PoolConfig, *, dry_run: bool) -> Actuator:
    if where == "local":
        from core.scaling.local import LocalReplicas

        return LocalReplicas(spec, config, pins=not dry_run)
    from core.scaling.containers import Containers

    return Containers(spec, pins=not dry_run)


@contextlib.contextmanager
def _reports(spec: SkillSpec, waiting: WaitingCalls, address: str) -> Iterator[None]:
    """Take reports of calls that wait as long as the context lasts."""
    from concurrent.futures import ThreadPoolExecutor

    from core.errors import ConfigError
    from core.rpc import grpc
    from core.scaling.scaler_pb2_grpc import add_ScalerServiceServicer_to_server
    from core.scaling.waiting import ScalerServicer

    server = grpc.server(ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
    add_ScalerServiceServicer_to_server(ScalerServicer(spec.name, waiting), server)
    try:
        server.add_insecure_port(address)
    except RuntimeError as error:
        raise ConfigError(f"--listen {address}: cannot listen there: is it in use, or no address?") from error
    server.start()
    try:
        yield
    finally:
        server.stop(None)


class _Teller:
    """Reports decisions: each that changes something, and others when their reason is a new one."""

    def __init__(self, settings: Settings, *, dry_run: bool) -> None:
        self._settings, self._dry_run = settings, dry_run
        self._paint = Paint(sys.stdout)
        self._last = ""

    def tell(self, step: Step) -> None:
        """Report a step, if there is something new."""
        decision = step.decision
        gist = f"{step.event} {step.there} {decision.wanted} " + re.sub(r"[\d.]+", "", decision.why)
        news, self._last = gist != self._last, gist
        if not news and (step.event == "hold" or self._dry_run):
            return
        if self._settings.json:
            print_json(
                {
                    "event": step.event,
                    "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
                    "replicas": step.there,
                    "wanted": decision.wanted,
                    "why": decision.why,
                    "load": round(decision.load, 3),
                    "full": decision.full,
                    "drains": list(step.names),
                }
            )
        elif step.event != "hold" or not self._settings.quiet:
            change = f"{step.there} → {decision.wanted}" if step.event != "hold" else f"{step.there}"
            drains = f" ({', '.join(step.names)} drains)" if step.names else ""
            would = "would be " if self._dry_run and step.event != "hold" else ""
            line = f"{time.strftime('%H:%M:%S')}  {would}{change}  {decision.why}{drains}"
            self._paint.line(line, dim=step.event == "hold")
