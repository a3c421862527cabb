"""Asks a server for its health by the standard protocol, grpc.health.v1."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from core.rpc import grpc, open_channel


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthAnswer:
    """What a server reports about itself."""

    serving: bool
    in_container: bool
    skill: str
    """Name of the skill; empty if the server does not report it."""


def ask_health(target: str, service: str, *, timeout_s: float) -> HealthAnswer:
    """Return the health of a service of the server at a target; no answer in time means that it does not serve."""
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    from skills.wire import IN_CONTAINER, SKILL

    with open_channel(target) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            answer, call = stub.Check.with_call(health_pb2.HealthCheckRequest(service=service), timeout=timeout_s)
        except grpc.RpcError:
            return HealthAnswer(serving=False, in_container=False, skill="")
        metadata = tuple(call.initial_metadata() or ())
    serving = bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
    skill = str(dict(metadata).get(SKILL, ""))
    return HealthAnswer(serving=serving, in_container=IN_CONTAINER in metadata, skill=skill)


def check_serving(target: str, service: str, *, timeout_s: float) -> bool:
    """Return whether the server at a target reports SERVING for a service in time."""
    return ask_health(target, service, timeout_s=timeout_s).serving


def is_silent(channel: grpc.Channel, service: str, *, timeout_s: float) -> bool:
    """Return whether the server of a channel leaves a health check without any answer, even an error, in time."""
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    request = health_pb2.HealthCheckRequest(service=service)
    try:
        health_pb2_grpc.HealthStub(channel).Check(request, timeout=timeout_s, wait_for_ready=True)
    except grpc.RpcError as error:
        return bool(error.code() is grpc.StatusCode.DEADLINE_EXCEEDED)
    except ValueError:  # the channel is closed, which says nothing about the server
        return False
    return False


def why_silent(target: str, service: str, *, timeout_s: float) -> str:
    """Return in words that the server at a target does not answer over a new connection in time; empty if it does."""
    with open_channel(target) as channel:
        silent = is_silent(channel, service, timeout_s=timeout_s)
    return f"it is silent, and does not answer a health check within {timeout_s:g} s" if silent else ""


class HealthFeed:
    """The health of a server, reported whenever it changes. Watch it once, in one thread; cancel it from any.

    Args:
        target: Address of the server.
        service: Service whose health is asked for, "" for the server as a whole.
        timeout_s: How long to watch it, seconds; None: until it ends.
    """

    def __init__(self, target: str, service: str, *, timeout_s: float | None = None) -> None:
        self._target, self._service, self._timeout_s = target, service, timeout_s
        self._lock = threading.Lock()
        self._call: Any = None
        self._cancelled = False
        self.ended: grpc.StatusCode | None = None
        """Why there are no more reports; None while there may be some, and if `tell` wanted no more."""
        self.why = ""
        """The reason in words."""

    def watch(self, tell: Callable[[bool], bool]) -> None:
        """Report whether the server is SERVING, until the reports end or `tell` wants no more.

        Not for the main thread: a Ctrl-C while the call begins would leave a call that hangs.

        Args:
            tell: Takes whether it is SERVING; returns whether to continue.
        """
        from grpc_health.v1 import health_pb2, health_pb2_grpc

        with open_channel(self._target) as channel:
            watch = health_pb2_grpc.HealthStub(channel).Watch
            request = health_pb2.HealthCheckRequest(service=self._service)
            with self._lock:
                if not self._cancelled:
                    self._call = watch(request, timeout=self._timeout_s)
            try:
                for answer in self._call or ():
                    if not tell(answer.status == health_pb2.HealthCheckResponse.SERVING):
                        return
                self.ended, self.why = grpc.StatusCode.OK, "it ended its health service"
            except grpc.RpcError as error:
                self.ended, self.why = error.code(), error.details() or error.code().name
        if self._cancelled:
            self.ended, self.why = grpc.StatusCode.CANCELLED, "cancelled"

    def cancel(self) -> None:
        """End the reports. Idempotent."""
        with self._lock:
            self._cancelled = True
            call = self._call
        if call is not None:
            call.cancel()


class HealthWatch:
    """Waits for a server to serve in a thread of its own, so that the caller can check other things meanwhile.

    Args:
        target: Address of the server.
        service: Service whose health is asked for, "" for the server as a whole.
        timeout_s: How long to watch it, seconds.
    """

    def __init__(self, target: str, service: str, *, timeout_s: float) -> None:
        self._feed = HealthFeed(target, service, timeout_s=timeout_s)
        self._news = threading.Event()
        self.serving = False
        """Whether it reported SERVING."""
        threading.Thread(target=self._watch, name="sarai-health", daemon=True).start()

    @property
    def ended(self) -> grpc.StatusCode | None:
        """Why the watch has ended; None while it has not."""
        return self._feed.ended

    def _watch(self) -> None:
        self._feed.watch(self._told)
        self._news.set()

    def _told(self, serving: bool) -> bool:
        self.serving = serving
        return not serving

    def wait(self, timeout_s: float) -> None:
        """Wait until it serves, until the watch has ended, or for `timeout_s`."""
        self._news.wait(timeout_s)

    def close(self) -> None:
        """End the watch."""
        self._feed.cancel()
