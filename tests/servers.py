"""Real draft servers for tests: a process, a socket, the tiny model."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc

from skills import skills_pb2, skills_pb2_grpc

ROOT = Path(__file__).resolve().parents[1]
TINY = ROOT / "tests" / "models" / "tiny-qwen3vl-q8_0.gguf"
SERVER = ("-m", "skills.skill_draft.server")
# Options of a channel to a server that only starts: after a first attempt in vain, gRPC would wait for a second.
SOON = (("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 100))


def free_port() -> int:
    """Return a TCP port on which nothing listens at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class DraftServer:
    """A running server, and how to examine it from outside."""

    process: subprocess.Popen[bytes]
    target: str
    log: Path
    channel: grpc.Channel
    stub: skills_pb2_grpc.SkillsServiceStub

    def health(self) -> skills_pb2.HealthResp:
        """Return its answer to `Health`."""
        return self.stub.Health(skills_pb2.HealthReq(), timeout=5)

    def engine_pid(self) -> int:
        """Return the pid of the engine, the server's only child besides the vision process."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        engines = [pid for pid in children if "vision" not in Path(f"/proc/{pid}/cmdline").read_text()]
        assert len(engines) == 1, f"one engine, not {engines}"
        return int(engines[0])

    def wait_idle(self, timeout: float = 10) -> skills_pb2.HealthResp:
        """Wait until no request runs or waits; return the health."""
        end = time.monotonic() + timeout
        while True:
            health = self.health()
            if not health.active_requests and not health.queued_requests:
                return health
            assert time.monotonic() < end, f"still busy: {health}"
            time.sleep(0.02)

    def new_stub(self) -> tuple[grpc.Channel, skills_pb2_grpc.SkillsServiceStub]:
        """Return a further client with its own connection."""
        channel = grpc.insecure_channel(self.target, options=[("grpc.use_local_subchannel_pool", 1)])
        return channel, skills_pb2_grpc.SkillsServiceStub(channel)


def alive(pid: int) -> bool:
    """Return whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@contextlib.contextmanager
def draft_server(
    folder: Path,
    *arguments: str,
    model: Path | str = TINY,
    module: tuple[str, ...] = SERVER,
    environment: dict[str, str] | None = None,
    until: str = "SERVING",
) -> Iterator[DraftServer]:
    """Start a server, wait until it serves, or has another status, and end it and its engine whatever happens.

    It keeps no answers unless the arguments say so: many tests ask the same again to see what the engine does.
    """
    target = f"127.0.0.1:{free_port()}"
    log = folder / f"server-{target.rsplit(':', 1)[1]}.log"
    command = [sys.executable, *module, "--listen", target, "--model", str(model), *arguments]
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("SKILL_DRAFT_", "SARAI_"))}
    # The tiny model writes an answer within one flush interval; with 0, tests can interrupt it between two pieces.
    clean["SKILL_DRAFT_PIECE_MS"] = "0"
    clean["SKILL_DRAFT_CACHE_MB"] = "0"
    clean["XDG_CACHE_HOME"] = str(Path(tempfile.gettempdir(), f"sarai-tests-{os.getuid()}"))
    with log.open("wb") as stream:
        process = subprocess.Popen(command, cwd=ROOT, stderr=stream, env={**clean, **(environment or {})})
    channel = grpc.insecure_channel(target, options=SOON)
    server = DraftServer(process, target, log, channel, skills_pb2_grpc.SkillsServiceStub(channel))
    try:
        grpc.channel_ready_future(channel).result(timeout=30)
        end = time.monotonic() + 60
        while server.health().status != until:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.02)
        yield server
    finally:
        channel.close()
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGCONT)
            process.terminate()
            process.send_signal(signal.SIGINT)  # a second signal, so that it waits for no latecomers
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)
