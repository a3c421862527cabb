"""`sarai autoscale --serve`: tell orchestrators how many replicas are wanted."""

from __future__ import annotations

import signal
import sys
import time
from typing import TYPE_CHECKING

import click

from core.cli.common import ExitCode, Settings, print_json

if TYPE_CHECKING:
    from core.scaling.samples import Decision, Limits


def serve_number(
    settings: Settings, skill: str, target: str | None, limits: Limits, *, listen: str, metrics: str
) -> int:
    """Serve how many replicas of a skill are wanted until SIGTERM or Ctrl-C, and print each decision.

    Args:
        settings: How to print.
        skill: Name of the skill.
        target: Where its replicas are; None: what the environment says.
        limits: What the number is to keep to.
        listen: Where KEDA asks and callers report.
        metrics: Where Prometheus reads; empty: nowhere.
    """
    from core.cli.pool import config_with_target
    from core.plugins import get_plugins
    from core.pool.targets import split_targets
    from core.scaling.server import ScalerServer

    spec = get_plugins().skill(skill)
    text = config_with_target(spec, target).target_of(spec)
    if text is None:
        raise click.UsageError(f"--serve needs to know where the replicas are: --target, or {spec.target_variable}.")
    if limits.low > limits.high:
        raise click.UsageError(f"--min {limits.low} is more than --max {limits.high}.")
    targets = split_targets(text, "--target" if target else spec.target_variable)

    def tell(decision: Decision) -> None:
        if settings.json:
            now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
            load = round(decision.load, 3)
            print_json({"event": "wanted", "time": now, "wanted": decision.wanted, "why": decision.why, "load": load})
        elif not settings.quiet:
            print(f"{time.strftime('%H:%M:%S')}  {decision.wanted}  {decision.why}", flush=True)

    with ScalerServer(spec, targets, limits, listen=listen, metrics=metrics, on_decision=tell) as server:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(ExitCode.OK))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})  # the image blocks it until it can be handled
        server.wait()
    return ExitCode.FAILED
