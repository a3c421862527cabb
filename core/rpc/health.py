"""Asks a server for its health by the standard protocol, grpc.health.v1."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from core.rpc import grpc, open_channel

# What a skill's server in a container adds to its answers, as metadata.
_IN_CONTAINER = "sarai-container"
# What it always adds: which skill it is.
_SKILL = "sarai-skill"


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthAnswer:
    """What a server says of itself."""

    serving: bool
    in_container: bool
    skill: str
    """The name of the skill; empty where the server does not say it."""


def ask_health(target: str, service: str, *, timeout_s: float) -> HealthAnswer:
    """What the server at the target says for a service within a time; nothing is not serving."""
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    with open_channel(target) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            answer, call = stub.Check.with_call(health_pb2.HealthCheckRequest(service=service), timeout=timeout_s)
        except grpc.RpcError:
            return HealthAnswer(serving=False, in_container=False, skill="")
        metadata = dict(call.initial_metadata() or ())
    serving = bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
    return HealthAnswer(serving=serving, in_container=_IN_CONTAINER in metadata, skill=str(metadata.get(_SKILL, "")))


def check_serving(target: str, service: str, *, timeout_s: float) -> bool:
    """Whether the server at the target says SERVING for a service within a time."""
    return ask_health(target, service, timeout_s=timeout_s).serving


def is_silent(channel: grpc.Channel, service: str, *, timeout_s: float) -> bool:
    """Whether the server at the end of a channel does not answer a health check, with whatever, within a time."""
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    request = health_pb2.HealthCheckRequest(service=service)
    try:
        health_pb2_grpc.HealthStub(channel).Check(request, timeout=timeout_s, wait_for_ready=True)
    except grpc.RpcError as error:
        return bool(error.code() is grpc.StatusCode.DEADLINE_EXCEEDED)
    except ValueError:  # the channel is closed: there is nothing to find out
        return False
    return False


def why_silent(target: str, service: str, *, timeout_s: float) -> str:
    """Why the server at a target does not answer over a new connection within a time; empty where it answers."""
    with open_channel(target) as channel:
        silent = is_silent(channel, service, timeout_s=timeout_s)
    return f"it is silent, and does not answer a health check within {timeout_s:g} s" if silent else ""


class HealthFeed:
    """What a server says of its health, whenever that changes. Followed once, in one thread; ended from any.

    Args:
        target: the server's address.
        service: the service whose health is asked for, "" for the server as a whole.
        timeout_s: how long to follow it, seconds; None: until it ends.
    """

    def __init__(self, target: str, service: str, *, timeout_s: float | None = None) -> None:
        self._target, self._service, self._timeout_s = target, service, timeout_s
        self._lock = threading.Lock()
        self._call: Any = None
        self._cancelled = False
        self.ended: grpc.StatusCode | None = None
        """Why nothing more comes; None as long as something may, and where nobody wanted more."""
        self.why = ""
        """The same in words."""

    def follow(self, tell: Callable[[bool], bool]) -> None:
        """Tells whether it is SERVING, until it says nothing any more or whoever is told wants no more.

        Not for the main thread: a Ctrl-C in the midst of the call's beginning would leave a call that hangs.

        Args:
            tell: returns whether to go on.
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
        """Ends it. Again does nothing."""
        with self._lock:
            self._cancelled = True
            call = self._call
        if call is not None:
            call.cancel()


class HealthWatch:
    """Waits for a server to serve, in a thread of its own, so that who waits can look after other things meanwhile.

    Args:
        target: the server's address.
        service: the service whose health is asked for, "" for the server as a whole.
        timeout_s: how long to follow it, seconds.
    """

    def __init__(self, target: str, service: str, *, timeout_s: float) -> None:
        self._feed = HealthFeed(target, service, timeout_s=timeout_s)
        self._news = threading.Event()
        self.serving = False
        """It said SERVING."""
        threading.Thread(target=self._follow, name="sarai-health", daemon=True).start()

    @property
    def ended(self) -> grpc.StatusCode | None:
        """Why there is nothing to follow any more."""
        return self._feed.ended

    def _follow(self) -> None:
        self._feed.follow(self._told)
        self._news.set()

    def _told(self, serving: bool) -> bool:
        self.serving = serving
        return not serving

    def wait(self, timeout_s: float) -> None:
        """Returns when it serves, when the watch has ended, or after so many seconds."""
        self._news.wait(timeout_s)

    def close(self) -> None:
        """Ends the watch."""
        self._feed.cancel()
