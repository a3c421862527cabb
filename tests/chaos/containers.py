"""Replicas in containers: the same faults, with the means of the container engine."""

from __future__ import annotations

import contextlib
import json
import subprocess
from typing import Self

import grpc

from core.testing import SkillContainer
from skills import skills_pb2_grpc
from tests.chaos.replicas import GRACE_S
from tests.fault_proxy import FaultProxy
from tests.servers import SOON


class ContainerReplica:
    """A container whose published port is behind a proxy; a context manager, which does not end the container."""

    def __init__(self, name: str, container: SkillContainer) -> None:
        self.name = name
        self._container = container
        asked = subprocess.run(
            ["docker", "inspect", "-f", "{{json .NetworkSettings.Networks}}", container.id],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        (self._network,) = json.loads(asked.stdout)
        self._stack = contextlib.ExitStack()
        self.proxy = FaultProxy(container.target)

    def __enter__(self) -> Self:
        channel = self._stack.enter_context(grpc.insecure_channel(self._container.target, SOON))
        self.stub = skills_pb2_grpc.SkillsServiceStub(channel)
        self._stack.enter_context(self.proxy)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def start(self) -> None:
        self._container.docker("start")

    def kill(self) -> None:
        self._container.docker("kill")

    def terminate(self) -> None:
        self._container.docker("stop", "-t", f"{GRACE_S + 10:g}")

    def kill_engine(self) -> None:
        for engine in self._container.exec("cat", "/proc/1/task/1/children").split():
            self._container.exec("bash", "-c", f"kill -9 {engine}")

    def pause(self) -> None:
        self._container.docker("pause")

    def resume(self) -> None:
        self._container.docker("unpause")

    def cut_off(self) -> None:
        self._container.docker("network", "disconnect", self._network)

    def connect(self) -> None:
        self._container.docker("network", "connect", self._network)

    def limit_cpus(self, cpus: float) -> None:
        """Limit the container to this many CPUs from now on."""
        self._container.docker("update", "--cpus", f"{cpus:g}")
