"""Replicas that can be broken and restored: the interface that faults need, and replicas in local processes."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, Self

import grpc

from skills import skills_pb2, skills_pb2_grpc
from tests.fault_proxy import FaultProxy
from tests.servers import ROOT, SERVER, SOON, TINY, free_port

START_S = 60.0
GRACE_S = 3.0


class Replica(Protocol):
    """One of the three replicas, behind a network that has faults."""

    name: str
    proxy: FaultProxy
    """Callers connect through it."""
    stub: skills_pb2_grpc.SkillsServiceStub
    """Connects directly, without the proxy."""

    def start(self) -> None:
        """Start the replica after it was killed or has ended; do not wait."""

    def kill(self) -> None:
        """Kill the server with SIGKILL, as in a crash."""

    def terminate(self) -> None:
        """Send SIGTERM; return when the replica has ended, which may take its grace period."""

    def kill_engine(self) -> None:
        """Kill the engine alone, with SIGKILL."""

    def pause(self) -> None:
        """Stop server and engine with SIGSTOP."""

    def resume(self) -> None:
        """Let server and engine continue."""

    def cut_off(self) -> None:
        """Disconnect the replica from the network."""

    def connect(self) -> None:
        """Connect the replica to the network again."""


def wait_serving(replica: Replica) -> None:
    """Wait until the replica reports SERVING; the proxy is not used."""
    _wait(replica, lambda health: health.status == "SERVING")


def wait_idle(replica: Replica) -> None:
    """Wait until no request runs or waits at the replica."""
    _wait(replica, lambda health: not health.active_requests and not health.queued_requests)


def _wait(replica: Replica, holds: Callable[[skills_pb2.HealthResp], bool]) -> None:
    until_s = time.monotonic() + START_S
    said: object = None
    while True:
        try:
            said = health = replica.stub.Health(skills_pb2.HealthReq(), timeout=2)
            if holds(health):
                return
        except grpc.RpcError as error:
            said = error
        assert time.monotonic() < until_s, f"{replica.name}: {said}"
        time.sleep(0.05)


class ProcessReplica:
    """A separate server with one thread, behind a proxy; a context manager."""

    def __init__(self, name: str, folder: Path, *, model: str = str(TINY)) -> None:
        self.name = name
        self._target = f"127.0.0.1:{free_port()}"
        self._log = folder / f"{name}.log"
        self._command = [sys.executable, *SERVER, "--listen", self._target, "--model", model]
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("SKILL_DRAFT_", "SARAI_"))}
        # Every token is sent alone, so that an answer can break between any two. In containers, pieces hold several.
        settings = {"THREADS": "1", "N_CTX": "512", "KV_CELLS": "4096", "PIECE_MS": "0", "GRACE_S": f"{GRACE_S:g}"}
        self._environment = clean | {f"SKILL_DRAFT_{name}": value for name, value in settings.items()}
        self._process: subprocess.Popen[bytes] | None = None
        self._stack = contextlib.ExitStack()
        self.proxy = FaultProxy(self._target)

    def __enter__(self) -> Self:
        # Reconnect at once when the server is back: otherwise gRPC's backoff would be part of each fault's time.
        channel = self._stack.enter_context(grpc.insecure_channel(self._target, SOON))
        self.stub = skills_pb2_grpc.SkillsServiceStub(channel)
        self._stack.enter_context(self.proxy)
        self._stack.callback(self.kill)
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, cwd=ROOT, stderr=log, env=self._environment)

    def kill(self) -> None:
        engines = self._engines()
        self._running.kill()
        self._running.wait(10)
        for engine in engines:  # including stopped engines
            with contextlib.suppress(ProcessLookupError):
                os.kill(engine, signal.SIGKILL)

    def terminate(self) -> None:
        self._running.terminate()
        self._running.wait(GRACE_S + 10)

    def kill_engine(self) -> None:
        for engine in self._engines():
            os.kill(engine, signal.SIGKILL)

    def pause(self) -> None:
        for pid in (self._running.pid, *self._engines()):
            os.kill(pid, signal.SIGSTOP)

    def resume(self) -> None:
        for pid in (*self._engines(), self._running.pid):
            os.kill(pid, signal.SIGCONT)

    def cut_off(self) -> None:
        self.proxy.cut_off()

    def connect(self) -> None:
        self.proxy.heal()

    @property
    def _running(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process

    def _engines(self) -> list[int]:
        pid = self._running.pid
        try:
            return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        except OSError:  # the server has ended
            return []
