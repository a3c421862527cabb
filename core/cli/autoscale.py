"""`sarai autoscale`: as many replicas of a skill on this machine as its work needs."""

from __future__ import annotations

import contextlib
import re
import sys
import threading
import time
from functools import partial
from typing import TYPE_CHECKING

import click

from core.cli.common import ExitCode, Settings, common_options, print_json, start_command
from core.cli.parameters import HostPort, Seconds, Whole
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
    "--max",
    "high",
    type=Whole(1),
    metavar="N",
    help="Most replicas, never more than cores. Default: one for each core; with --serve 100, cores do not count.",
)
@click.option(
    "--target-wait",
    type=Seconds(),
    default=2.0,
    help="How long a request may wait before its prompt is read, seconds. Default: 2.",
)
@click.option(
    "--listen",
    type=HostPort(),
    metavar="HOST:PORT",
    help="With --on compose: where callers report calls that wait (SARAI_<NAME>_SCALER).",
)
@click.option(
    "--serve",
    type=HostPort(),
    metavar="HOST:PORT",
    help="Start and drain nothing: only tell KEDA and others, there, how many replicas are wanted (docs/cluster.md).",
)
@click.option(
    "--target", metavar="ADDRESSES", help="With --serve: where the replicas are. Default: SARAI_<NAME>_TARGET."
)
@click.option(
    "--metrics", type=HostPort(), metavar="HOST:PORT", help="With --serve: where Prometheus reads the number."
)
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
    from core.local.numbered import MOST
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
    if listen and where == "local":
        raise click.UsageError("--listen goes with --on compose: a local process is started by the call that waits.")
    cores = len(usable_cores())
    config, spec = PoolConfig.from_env(), get_plugins().skill(skill)
    room = len(config.ports_of(spec)) if where == "compose" else MOST
    if low > (most := min(high or cores, cores, room)):
        raise click.UsageError(f"--min {low} is more than the {most} that --max, {cores} cores and ports allow.")
    limits = Limits(low=low, high=most, target_wait_s=target_wait, cores=cores)
    with contextlib.nullcontext() if dry_run else only_one(config.log_dir.parent) as lock:
        actuator = _actuator(where, spec, config, lock)
        if stop:
            _stop_all(actuator, settings, dry_run=dry_run)
            return ExitCode.OK
        call_waits = threading.Event()
        waiting = WaitingCalls(call_waits.set)
        scaler = Scaler(spec, config, actuator, limits, waiting=waiting, dry_run=dry_run)
        with contextlib.nullcontext() if listen is None else _listening(spec, waiting, listen):
            scaler.run(_Teller(settings, dry_run=dry_run).tell, partial(_pause, call_waits))
    return ExitCode.OK


def _pause(call_waits: threading.Event, seconds: float) -> bool:
    """Wait, but not while the first call already waits for a replica; return that it goes on."""
    call_waits.wait(seconds)
    call_waits.clear()
    return False


def _stop_all(actuator: Actuator, settings: Settings, *, dry_run: bool) -> None:
    replicas = actuator.replicas()
    if not replicas and not settings.quiet and not settings.json:
        print("no replica runs")
    for each in replicas:
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


def _actuator(where: str, spec: SkillSpec, config: PoolConfig, lock: int | None) -> Actuator:
    if where == "local":
        from core.scaling.local import LocalReplicas

        return LocalReplicas(spec, config, pins=lock is not None)
    from core.scaling.containers import Containers

    return Containers(spec, pins=lock is not None, lock=lock)


@contextlib.contextmanager
def _listening(spec: SkillSpec, waiting: WaitingCalls, address: str) -> Iterator[None]:
    """Take reports of calls that wait as long as the context lasts."""
    from core.scaling.listening import bind
    from core.scaling.scaler_pb2_grpc import add_ScalerServiceServicer_to_server
    from core.scaling.waiting import ScalerServicer

    server, _ = bind(address)
    add_ScalerServiceServicer_to_server(ScalerServicer(spec.name, waiting), server)
    server.start()
    yield
    server.stop(None)


class _Teller:
    """Reports decisions when there is something new about them: what is done, or the reason."""

    def __init__(self, settings: Settings, *, dry_run: bool) -> None:
        self._settings, self._dry_run = settings, dry_run
        self._paint = Paint(sys.stdout)
        self._last = ""

    def tell(self, step: Step) -> None:
        """Report a step."""
        decision, holds = step.decision, step.event == "hold"
        gist = f"{step.event} {step.there} {decision.wanted} {step.names} " + re.sub(r"[\d.]+", "", decision.why)
        news, self._last = gist != self._last, gist
        if not news:
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
        elif not (holds and self._settings.quiet):
            self._paint.line(f"{time.strftime('%H:%M:%S')}  {self._done(step)}: {decision.why}", dim=holds)

    def _done(self, step: Step) -> str:
        if step.event == "hold":
            return f"{step.there} stay" if step.there != 1 else "1 stays"
        what = ", ".join(step.names) or str(step.decision.wanted - step.there)
        verb = f"would {step.event}" if self._dry_run else f"{step.event}s"
        return f"{verb} {what} ({step.there} → {step.decision.wanted})"
