"""For the tests of a skill: its real server, started as its plugin says, on a socket of its own."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from .child_start import environment

# Milliseconds between attempts to connect; gRPC's defaults are a second and more.
_SOON = (("grpc.initial_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 50))


class Served(Protocol):
    """The part of `core.skill.SkillSpec` that is needed here."""

    @property
    def name(self) -> str:
        """The skill's name."""

    @property
    def serve(self) -> tuple[str, ...]:
        """The arguments after the Python executable that start its server."""


@contextmanager
def served(spec: Served, *options: str, timeout_s: float = 60.0) -> Iterator[grpc.Channel]:
    """Start a skill's server, and yield a channel to it once it is SERVING. It is stopped at the end.

    Args:
        spec: the skill, as its plugin describes it.
        options: more options of the server.
        timeout_s: how long its start may take, seconds.

    Raises:
        AssertionError: It did not come up; the message has its log.
    """
    with tempfile.TemporaryDirectory(prefix=f"skill-{spec.name}-") as folder:
        log, address = Path(folder) / "log", f"unix:{folder}/socket"
        command = [sys.executable, *spec.serve, "--listen", address, "--lifeline", *options]
        with (
            log.open("wb") as written,
            subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=written, stderr=written, env=environment()
            ) as process,
            grpc.insecure_channel(address, options=_SOON) as channel,
        ):
            try:
                _wait_serving(process, channel, log, time.monotonic() + timeout_s)
                yield channel
            finally:
                channel.close()
                process.terminate()


def _wait_serving(process: subprocess.Popen[bytes], channel: grpc.Channel, log: Path, until_s: float) -> None:
    health = health_pb2_grpc.HealthStub(channel)
    while True:
        assert process.poll() is None, f"the server ended with exit code {process.returncode}:\n{log.read_text()}"
        assert time.monotonic() < until_s, f"the server is not SERVING in time:\n{log.read_text()}"
        try:
            answer = health.Check(health_pb2.HealthCheckRequest(), timeout=1.0, wait_for_ready=True)
        except grpc.RpcError:
            continue
        if answer.status == health_pb2.HealthCheckResponse.SERVING:
            return
        time.sleep(0.01)
