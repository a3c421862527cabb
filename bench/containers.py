"""A container of the draft skill for measurements, as docker-compose.override.yml runs it."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from skills.skill_draft import IMAGE

_LIMITS = ("--cpus=2", "--memory=3g", "--read-only", "--tmpfs=/tmp", "--cap-drop=ALL")
_START_TIMEOUT_S = 120.0
# Reconnects often, so that the server is measured and not the pause between two attempts.
_IMPATIENT = (("grpc.initial_reconnect_backoff_ms", 20), ("grpc.min_reconnect_backoff_ms", 20),
              ("grpc.max_reconnect_backoff_ms", 20), ("grpc.use_local_subchannel_pool", 1))  # fmt: skip


def docker(*arguments: str) -> str:
    """Run a docker command and return its output.

    Raises:
        subprocess.CalledProcessError: The command failed.
    """
    return subprocess.run(["docker", *arguments], check=True, capture_output=True, text=True).stdout.strip()


def docker_log(name: str, *, since: str) -> str:
    """Return a container's log, both streams, each line with its time."""
    done = subprocess.run(
        ["docker", "logs", "--timestamps", "--since", since, name],
        check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    return done.stdout


@contextlib.contextmanager
def container(*options: str, image: str = IMAGE) -> Iterator[str]:
    """Create a container with a free host port, without starting it; yield its id and remove it at the end."""
    name = docker("create", *_LIMITS, "--publish=127.0.0.1::50051", *options, image)
    try:
        yield name
    finally:
        docker("rm", "--force", "--volumes", name)


def inspect(name: str) -> dict[str, Any]:
    """Return the output of `docker inspect` for a container."""
    about: dict[str, Any] = json.loads(docker("inspect", name))[0]
    return about


def target(name: str) -> str:
    """Return the host address at which a running container's port is published."""
    binding = inspect(name)["NetworkSettings"]["Ports"]["50051/tcp"][0]
    return f"{binding['HostIp']}:{binding['HostPort']}"


def wait_serving(channel: grpc.Channel) -> None:
    """Wait until the server reports SERVING.

    Raises:
        TimeoutError: It did not within 120 s.
    """
    health = health_pb2_grpc.HealthStub(channel)
    until_s = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < until_s:
        with contextlib.suppress(grpc.RpcError):
            watched = health.Watch(health_pb2.HealthCheckRequest(), wait_for_ready=True, timeout=_START_TIMEOUT_S)
            for answer in watched:
                if answer.status == health_pb2.HealthCheckResponse.SERVING:
                    watched.cancel()
                    return
    raise TimeoutError(f"not SERVING after {_START_TIMEOUT_S:g} s")


def open_channel(address: str) -> grpc.Channel:
    """Return a channel that connects as soon as the port is listening."""
    return grpc.insecure_channel(address, options=_IMPATIENT)


def epoch_s(text: str) -> float:
    """Convert Docker's RFC 3339 times to seconds since 1970."""
    seconds, _, fraction = text.removesuffix("Z").partition(".")
    return datetime.fromisoformat(f"{seconds}+00:00").timestamp() + float(f"0.{fraction or 0}")
