"""A replica as a local process, the default: started when it is first needed, and again when it has died."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from typing import TYPE_CHECKING

from core.backends.health import HealthWatch
from core.backends.process import ServerProcess, end_of
from core.backends.rundir import RunDir
from core.errors import (
    DeadlineError,
    PoolClosedError,
    SkillRestartLimitError,
    SkillStartError,
    SkillStartTimeoutError,
)
from core.progress import OnProgress, Serving, Starting, Waiting
from core.quiet_grpc import grpc

if TYPE_CHECKING:
    from core.backends import Origin
    from core.config import PoolConfig
    from core.skill import SkillSpec

_TICK_S = 0.02
_REPORT_EVERY_S = 1.0


class EmbeddedReplica:
    """A server of the skill on a Unix socket in a private directory. Thread-safe: whoever comes first starts it."""

    def __init__(self, spec: SkillSpec, config: PoolConfig, on_progress: OnProgress) -> None:
        self._spec = spec
        self._config = config
        self._on_progress = on_progress
        self._run_dir = RunDir()
        # The name of the socket is short whatever the skill is called: socket paths have a limit.
        self._socket = self._run_dir.path / "skill.sock"
        self.target = f"unix:{self._socket}"
        self.origin: Origin = "embedded"
        self.lost = False
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._server: ServerProcess | None = None
        self._restarts: deque[float] = deque()

    def is_ready(self) -> bool:
        """Whether the process serves, as far as is known."""
        server = self._server
        return server is not None and server.serving and server.exit_code() is None

    def ready(self, timeout_s: float) -> None:
        """See `Replica.ready`."""
        if self.is_ready() and not self._closing.is_set():
            return
        until_s = time.monotonic() + timeout_s
        if not self._lock.acquire(timeout=min(timeout_s, threading.TIMEOUT_MAX)):
            raise self._too_late()
        try:
            if not self.is_ready():
                self._wait_serving(self._running_server(), until_s)
        finally:
            self._lock.release()

    def close(self) -> None:
        """Stops the process and removes the socket. In a forked child it does nothing: the server is the parent's."""
        if os.getpid() != self._pid or self._closing.is_set():
            return
        self._closing.set()
        with self._lock:
            if self._server is not None:
                self._server.stop(self._config.stop_grace_s)
            self._run_dir.remove()

    def _running_server(self) -> ServerProcess:
        """The process, started if there is none."""
        if self._closing.is_set():
            raise PoolClosedError("the pool is closed")
        server = self._server
        if server is not None and server.exit_code() is None:
            return server
        if server is not None:
            self._count_restart(server)
        self._socket.unlink(missing_ok=True)
        self._server = ServerProcess(self._spec, self.target, self._config)
        self._on_progress(Starting(skill=self._spec.name, log=self._server.log, restart=server is not None))
        return self._server

    def _count_restart(self, ended: ServerProcess) -> None:
        ended.stop(0.0)  # closes its pipe
        now = time.monotonic()
        window_s, limit = self._config.restart_window_s, self._config.restart_limit
        while self._restarts and now - self._restarts[0] >= window_s:
            self._restarts.popleft()
        if len(self._restarts) >= limit:
            raise self._failed(
                SkillRestartLimitError,
                f"was started again {limit} times within {window_s:g} s and ended each time; "
                f"not again for {window_s - (now - self._restarts[0]) if self._restarts else window_s:.0f} s",
                ended,
            )
        self._restarts.append(now)

    def _wait_serving(self, server: ServerProcess, until_s: float) -> None:
        timeout_s = self._config.startup_timeout_s
        gives_up_s, reported_s = server.started_s + timeout_s, server.started_s
        watch: HealthWatch | None = None
        try:
            while watch is None or not watch.serving:
                self._check_start(server, watch)
                now = time.monotonic()
                if now >= gives_up_s:
                    server.stop(0.0)
                    raise self._failed(
                        SkillStartTimeoutError, f"was not SERVING {timeout_s:g} s after its start", server
                    )
                if now >= until_s:
                    raise self._too_late()
                if now - reported_s >= _REPORT_EVERY_S:
                    reported_s = now
                    self._on_progress(Waiting(skill=self._spec.name, elapsed_s=now - server.started_s))
                if watch is None and self._socket.exists():
                    watch = HealthWatch(self.target, self._spec.health_service, timeout_s=timeout_s)
                if watch is None:
                    self._closing.wait(_TICK_S)
                elif watch.ended is None:
                    watch.wait(_TICK_S)
                else:  # it was not quite there, or went away again
                    watch.close()
                    watch = None
                    self._closing.wait(_TICK_S)
        finally:
            if watch is not None:
                watch.close()
        server.serving = True
        elapsed_s = time.monotonic() - server.started_s
        self._on_progress(Serving(skill=self._spec.name, elapsed_s=elapsed_s, target=self.target))

    def _check_start(self, server: ServerProcess, watch: HealthWatch | None) -> None:
        """Raises what makes further waiting useless."""
        if self._closing.is_set():
            raise PoolClosedError("the pool was closed while the skill was starting")
        exit_code = server.exit_code()
        if exit_code is not None:
            raise self._failed(SkillStartError, f"{end_of(exit_code)} while it was starting", server)
        if watch is not None and watch.ended is grpc.StatusCode.UNIMPLEMENTED:
            server.stop(0.0)
            raise self._failed(SkillStartError, "does not serve grpc.health.v1, which tells when it is ready", server)

    def _failed(self, kind: type[SkillStartError], what: str, server: ServerProcess) -> SkillStartError:
        return kind(
            what, skill=self._spec.name, log=server.log, exit_code=server.exit_code(), log_tail=server.log_tail()
        )

    def _too_late(self) -> DeadlineError:
        return DeadlineError(
            code=grpc.StatusCode.DEADLINE_EXCEEDED,
            details="its local process is still starting",
            skill=self._spec.name,
            target=self.target,
        )
