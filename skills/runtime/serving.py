"""The life cycle of a skill server: bind, load, serve, drain.

A skill brings its servicers and its way to load. What all skills share is here: the standard health service,
reflection, signals, and the end of the process.
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

from skills import wire

from .drain import DrainInterceptor
from .guard import GuardInterceptor
from .limits import watch_limits
from .skill import BaseSkill, StartError, Status

log = logging.getLogger("sarai.runtime")

# The health service's name for the process itself: SERVING for as long as it answers, also while it loads, recovers or
# cannot serve. Kubernetes' livenessProbe asks for it; one that asked for the skill would kill whatever is recovering.
LIVE = "live"

# The marks that docker and podman leave in their containers.
IN_CONTAINER = any(Path(mark).exists() for mark in ("/.dockerenv", "/run/.containerenv"))
# How often clients may ping. gRPC's default of 300 s would disconnect livelier ones with too_many_pings.
MIN_PING_INTERVAL_MS = 10_000


# Between attempts to load, if the server stays though it cannot serve. Each attempt may read the whole model.
RELOAD_DELAY_S = (5.0, 10.0, 30.0, 60.0)
# How long calls are still taken after NOT_SERVING, until their callers have heard of it. Seconds; at most a tenth of
# the grace.
LATECOMERS_S = 0.1
# How long before the end of the grace the calls that still run are handed over. Seconds; at most a fifth of the grace.
HAND_OVER_S = 2.0


class _HealthServicer(health.aio.HealthServicer):  # type: ignore[misc]  # it has no types
    """The standard health service, whose answers also say which skill this is and whether it is in a container.

    A caller that looks for replicas of a skill can thus tell what it has found.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self._about = ((wire.SKILL, name), *((wire.IN_CONTAINER,) if IN_CONTAINER else ()))

    async def Check(self, request: Any, context: Any) -> Any:  # noqa: N802  # gRPC's name
        """Return the health of a service."""
        await context.send_initial_metadata(self._about)
        return await super().Check(request, context)


class Serving:
    """Whether the skill can answer, for the standard health service."""

    def __init__(self, name: str, services: Sequence[str]) -> None:
        self._names = ("", *services)
        self.servicer = _HealthServicer(name)

    async def set(self, serving: bool) -> None:
        """Report SERVING or NOT_SERVING, for the server as a whole and for each of its services."""
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in self._names:
            await self.servicer.set(name, status)
        await self.servicer.set(LIVE, health_pb2.HealthCheckResponse.SERVING)

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
    """Run a skill's server until a signal or the end of the lifeline, and return the process's exit code.

    Args:
        skill: The skill to serve.
        listen: `HOST:PORT` or `unix:/PATH`.
        grace_s: how long running calls may take after SIGTERM or SIGINT. Shortly before that is over they end with
            UNAVAILABLE and the reason DRAINING, so that their callers go on elsewhere. SIGINT ends the wait.
        max_message_bytes: a larger request is answered RESOURCE_EXHAUSTED.
        lifeline: stop at once when standard input ends, because no process holds its other end any more.
        stay: if the skill cannot load, report that in the log and in its health, stay NOT_SERVING, and try again.

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
            await loading  # raises its error, if it has one
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
    """Load, as often as it takes: memory may become free, or the model may appear."""
    for attempt in itertools.count():
        try:
            await skill.load(serving.set)
        except StartError as error:
            await skill.set_status(Status.NOT_SERVING, str(error))
            delay_s = RELOAD_DELAY_S[min(attempt, len(RELOAD_DELAY_S) - 1)]
            # Without a traceback: the message is all there is to know.
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
    """Return whether all calls ended within the grace, by themselves or because they were handed over."""
    moment_s, margin_s = min(LATECOMERS_S, grace_s / 10), min(HAND_OVER_S, grace_s / 5)
    await asyncio.sleep(moment_s)
    drain.refuse()
    skill.draining()
    if await drain.idle(grace_s - moment_s - margin_s):
        return True
    log.info("the grace period is nearly over: handing over %d calls", drain.hand_over())
    return await drain.idle(margin_s)


class _Stopping:
    """Requests to stop: the first signal drains; Ctrl-C after it, or the end of the lifeline, does not wait.

    A further SIGTERM changes nothing: two programs may each tell a server to drain.
    """

    def __init__(self, *, lifeline: bool) -> None:
        self.first, self.abandoned = asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()
        for name in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(name, self._on_signal, name)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})  # images block it until it can be handled
        if lifeline:
            self._lifeline = _take_standard_input()
            loop.add_reader(self._lifeline, self._on_lifeline)

    def _on_signal(self, name: signal.Signals) -> None:
        if self.first.is_set() and name is signal.SIGINT:
            self.abandoned.set()
        self.first.set()

    def _on_lifeline(self) -> None:
        try:
            ended = not os.read(self._lifeline, 4096)
        except BlockingIOError:
            return  # the last user went, but the next one came before we looked
        if ended:
            asyncio.get_running_loop().remove_reader(self._lifeline)
            log.info("this server has no users any more")
            self.first.set()
            self.abandoned.set()


def _take_standard_input() -> int:
    """Take standard input away from the processes that this one starts, and return its new descriptor.

    They would keep it open after this process has ended, and the other end could not tell that it has.
    """
    own = os.dup(sys.stdin.fileno())
    os.set_blocking(own, False)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, sys.stdin.fileno())
    os.close(nothing)
    return own


def configure_logging(level: str) -> None:
    """Log to standard error, each line with its time and logger."""
    logging.basicConfig(
        stream=sys.stderr, level=level.upper(), format="%(asctime)s %(levelname).1s %(name)s: %(message)s"
    )
