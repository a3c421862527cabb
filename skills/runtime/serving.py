"""The life cycle of a skill server: bind, load, serve, drain.

A skill provides its servicers and its loading. The rest is here: the standard health service, reflection, signals, and
the end of the process.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from .drain import DrainInterceptor
from .guard import GuardInterceptor
from .limits import watch_limits
from .skill import BaseSkill, StartError

log = logging.getLogger("sarai.runtime")

# Files by which Docker and Podman mark containers.
IN_CONTAINER = any(Path(mark).exists() for mark in ("/.dockerenv", "/run/.containerenv"))
# Clients may ping this often (ms); gRPC's default of 300 s refuses more frequent pings with too_many_pings.
MIN_PING_INTERVAL_MS = 10_000


# Delays between attempts to load, if the server stays although it cannot serve. Each attempt reads the model.
RELOAD_DELAY_S = (5.0, 10.0, 30.0, 60.0)
# How long calls are still accepted after NOT_SERVING, until callers have noticed. Seconds, at most a tenth of the grace
# period.
LATECOMERS_S = 0.1
# How long before the end of the grace period running calls are handed over. Seconds, at most a fifth of it.
HAND_OVER_S = 2.0


class _HealthServicer(health.aio.HealthServicer):  # type: ignore[misc]  # it has no types
    """The standard health service, whose metadata also has the skill's name and whether it runs in a container.

    This lets callers who look for replicas of a skill recognise them.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self._about = (("sarai-skill", name), *((("sarai-container", "1"),) if IN_CONTAINER else ()))

    async def Check(self, request: Any, context: Any) -> Any:  # noqa: N802  # gRPC's name
        """Return the health of a service."""
        await context.send_initial_metadata(self._about)
        return await super().Check(request, context)


class Serving:
    """Sets whether the skill can answer, in the standard health service."""

    def __init__(self, name: str, services: Sequence[str]) -> None:
        self._names = ("", *services)
        self.servicer = _HealthServicer(name)

    async def set(self, serving: bool) -> None:
        """Report SERVING or NOT_SERVING, for the server as a whole and for each of its services."""
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in self._names:
            await self.servicer.set(name, status)

    async def shut_down(self) -> None:
        """Report NOT_SERVING from now on."""
        await self.servicer.enter_graceful_shutdown()


async def serve(
    skill: BaseSkill,
    *,
    listen: str,
    grace_s: float,
    max_message_bytes: int,
    lifeline: bool = False,
    stay: bool = False,
) -> int:
    """Run a skill server until a signal or the end of the lifeline; return the process's exit code.

    Args:
        skill: The skill to serve.
        listen: `HOST:PORT` or `unix:/PATH`.
        grace_s: How long running calls may take after SIGTERM or SIGINT. Shortly before the end they are ended with
            UNAVAILABLE and the reason DRAINING, so that their callers continue elsewhere. A second signal ends them.
        max_message_bytes: Larger requests are refused with RESOURCE_EXHAUSTED.
        lifeline: Stop at once when standard input ends, as no process holds the other end any more.
        stay: If the skill cannot load, report it in the log and in its health, stay NOT_SERVING, and try again.

    Raises:
        StartError: The address cannot be bound, or the skill cannot load and `stay` is not set.
    """
    drain = DrainInterceptor(tuple(f"/{service}/Health" for service in skill.services))
    serving = Serving(skill.name, skill.services)
    server = _server(skill, drain, serving, max_message_bytes=max_message_bytes)
    await serving.set(False)
    await _listen(server, listen)
    stopping = _Stopping(lifeline=lifeline)
    loading = asyncio.create_task(_load_again_and_again(skill, serving) if stay else skill.load(serving.set))
    asked = asyncio.create_task(stopping.first.wait())
    watching = asyncio.create_task(watch_limits(skill.limits_changed))
    try:
        await asyncio.wait({loading, asked}, return_when=asyncio.FIRST_COMPLETED)
        if loading.done():
            await loading  # raises what went wrong
        await asked
        await serving.shut_down()
        if not stopping.abandoned.is_set():
            await _drain(skill, drain, stopping, grace_s)
    finally:
        loading.cancel()
        asked.cancel()
        watching.cancel()
        await server.stop(None)
        await skill.close()
    return 0


def _server(skill: BaseSkill, drain: DrainInterceptor, serving: Serving, *, max_message_bytes: int) -> grpc.aio.Server:
    server = grpc.aio.server(
        interceptors=[GuardInterceptor(), drain],
        options=[
            ("grpc.so_reuseport", 0),
            ("grpc.max_receive_message_length", max_message_bytes),
            ("grpc.http2.min_recv_ping_interval_without_data_ms", MIN_PING_INTERVAL_MS),
            ("grpc.keepalive_permit_without_calls", 1),
        ],
    )
    health_pb2_grpc.add_HealthServicer_to_server(serving.servicer, server)
    reflection.enable_server_reflection((*skill.services, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    skill.register(server)
    return server


async def _listen(server: grpc.aio.Server, address: str) -> None:
    try:
        port = server.add_insecure_port(address)
    except RuntimeError as error:
        raise StartError(f"cannot listen on {address}: is it in use, or not an address of this machine?") from error
    await server.start()
    log.info("listening on %s", address if address.startswith("unix:") else f"{address.rsplit(':', 1)[0]}:{port}")


async def _load_again_and_again(skill: BaseSkill, serving: Serving) -> None:
    """Try to load until it succeeds: memory may become free, or a model may be added."""
    for attempt in itertools.count():
        try:
            await skill.load(serving.set)
        except StartError as error:
            skill.cannot_serve(str(error))
            delay_s = RELOAD_DELAY_S[min(attempt, len(RELOAD_DELAY_S) - 1)]
            # A single line without a traceback; the following ones show that nothing has changed.
            log.error("cannot serve: %s (NOT_SERVING; next try in %g s)", error, delay_s)  # noqa: TRY400
            await asyncio.sleep(delay_s)
        else:
            return


async def _drain(skill: BaseSkill, drain: DrainInterceptor, stopping: _Stopping, grace_s: float) -> None:
    log.info("draining: running calls have %g s", grace_s)
    draining = asyncio.create_task(_finish_or_hand_over(skill, drain, grace_s))
    abandoned = asyncio.create_task(stopping.abandoned.wait())
    await asyncio.wait({draining, abandoned}, return_when=asyncio.FIRST_COMPLETED)
    abandoned.cancel()
    finished = draining.done() and draining.result()
    draining.cancel()
    log.info("drained" if finished else "stopping with calls still running")


async def _finish_or_hand_over(skill: BaseSkill, drain: DrainInterceptor, grace_s: float) -> bool:
    """Return whether all calls ended within the grace period, by themselves or handed over."""
    moment_s, margin_s = min(LATECOMERS_S, grace_s / 10), min(HAND_OVER_S, grace_s / 5)
    await asyncio.sleep(moment_s)
    drain.refuse()
    skill.draining()
    if await drain.idle(grace_s - moment_s - margin_s):
        return True
    log.info("the grace period is nearly over: handing over %d calls", drain.hand_over())
    return await drain.idle(margin_s)


class _Stopping:
    """Requests to stop: the first signal drains; a second one, or the end of the lifeline, stops at once."""

    def __init__(self, *, lifeline: bool) -> None:
        self.first, self.abandoned = asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()
        for name in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(name, self._on_signal)
        if lifeline:
            self._lifeline = _take_standard_input()
            loop.add_reader(self._lifeline, self._on_lifeline)

    def _on_signal(self) -> None:
        if self.first.is_set():
            self.abandoned.set()
        self.first.set()

    def _on_lifeline(self) -> None:
        try:
            ended = not os.read(self._lifeline, 4096)
        except BlockingIOError:
            return  # the last user has gone, but another one has come since
        if ended:
            asyncio.get_running_loop().remove_reader(self._lifeline)
            log.info("this server has no users any more")
            self.first.set()
            self.abandoned.set()


def _take_standard_input() -> int:
    """Return standard input, not inherited by children: its other end shows whether this process exists.

    A child that inherited it would keep it open after this process.
    """
    own = os.dup(sys.stdin.fileno())
    os.set_blocking(own, False)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, sys.stdin.fileno())
    os.close(nothing)
    return own


def configure_logging(level: str) -> None:
    """Log to stderr, with the time and the logger's name."""
    logging.basicConfig(
        stream=sys.stderr, level=level.upper(), format="%(asctime)s %(levelname).1s %(name)s: %(message)s"
    )
