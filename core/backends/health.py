"""Asks a server for its health by the standard protocol, grpc.health.v1."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from core.channels import open_channel
from core.quiet_grpc import grpc

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


class HealthWatch:
    """Follows the health of a server in a thread of its own, so that who waits can look after other things meanwhile.

    Args:
        target: the server's address.
        service: the service whose health is asked for, "" for the server as a whole.
        timeout_s: how long to follow it.
    """

    def __init__(self, target: str, service: str, *, timeout_s: float) -> None:
        self._channel = open_channel(target)
        self._news = threading.Event()
        self.serving = False
        """It said SERVING."""
        self.ended: grpc.StatusCode | None = None
        """Why there is nothing to follow any more."""
        # The call begins in that thread too: a Ctrl-C in the midst of its beginning would leave a call that hangs.
        threading.Thread(target=self._follow, args=(service, timeout_s), name="sarai-health", daemon=True).start()

    def _follow(self, service: str, timeout_s: float) -> None:
        from grpc_health.v1 import health_pb2, health_pb2_grpc

        try:
            stub = health_pb2_grpc.HealthStub(self._channel)
            for answer in stub.Watch(health_pb2.HealthCheckRequest(service=service), timeout=timeout_s):
                if answer.status == health_pb2.HealthCheckResponse.SERVING:
                    self.serving = True
                    break
            else:
                self.ended = grpc.StatusCode.OK
        except grpc.RpcError as error:
            self.ended = error.code()
        except ValueError:  # closed before it began
            self.ended = grpc.StatusCode.CANCELLED
        self._news.set()

    def wait(self, timeout_s: float) -> None:
        """Returns when it serves, when the watch has ended, or after so many seconds."""
        self._news.wait(timeout_s)

    def close(self) -> None:
        """Ends the watch."""
        self._channel.close()
