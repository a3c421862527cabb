"""Asks a server for its health by the standard protocol, grpc.health.v1."""

from __future__ import annotations

import threading
from typing import Any

from core.channels import open_channel
from core.quiet_grpc import grpc


def check_serving(target: str, service: str, *, timeout_s: float) -> bool:
    """Whether the server at the target says SERVING for a service within a time."""
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    with open_channel(target) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            answer = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=timeout_s)
        except grpc.RpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


class HealthWatch:
    """Follows the health of a server in a thread of its own, so that who waits can look after other things meanwhile.

    Args:
        target: the server's address.
        service: the service whose health is asked for, "" for the server as a whole.
        timeout_s: how long to follow it.
    """

    def __init__(self, target: str, service: str, *, timeout_s: float) -> None:
        from grpc_health.v1 import health_pb2, health_pb2_grpc

        self._channel = open_channel(target)
        stub = health_pb2_grpc.HealthStub(self._channel)
        self._serving = health_pb2.HealthCheckResponse.SERVING
        self._call = stub.Watch(health_pb2.HealthCheckRequest(service=service), timeout=timeout_s)
        self._news = threading.Event()
        self.serving = False
        """It said SERVING."""
        self.ended: grpc.StatusCode | None = None
        """Why there is nothing to follow any more."""
        threading.Thread(target=self._follow, args=(self._call,), name="sarai-health", daemon=True).start()

    def _follow(self, call: Any) -> None:
        try:
            for answer in call:
                if answer.status == self._serving:
                    self.serving = True
                    break
            else:
                self.ended = grpc.StatusCode.OK
        except grpc.RpcError as error:
            self.ended = error.code()
        self._news.set()

    def wait(self, timeout_s: float) -> None:
        """Returns when it serves, when the watch has ended, or after so many seconds."""
        self._news.wait(timeout_s)

    def close(self) -> None:
        """Ends the watch."""
        self._call.cancel()
        self._channel.close()
