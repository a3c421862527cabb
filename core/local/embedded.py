"""A replica as a local process, the default: started when first needed, and restarted when it has died."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Literal

from core.errors import DeadlineError, PoolClosedError, SkillStartError, SkillStartTimeoutError
from core.local.idle import IdleTimer
from core.local.progress import OnProgress, Progress, Serving, Starting, Waiting
from core.local.shared import SharedServer
from core.rpc import grpc
from core.rpc.health import HealthWatch, why_silent

if TYPE_CHECKING:
    from pathlib import Path

    from core.config import PoolConfig
    from core.skill import SkillSpec

_TICK_S = 0.02
_REPORT_EVERY_S = 1.0


class EmbeddedReplica:
    """A server of the skill on a Unix socket, shared with other processes of this user that want the same one.

    Thread-safe: the first caller starts it. After `PoolConfig.idle_stop_s` without calls it is released until it is
    needed again.
    """

    def __init__(self, spec: SkillSpec, config: PoolConfig, on_progress: OnProgress) -> None:
        self._spec = spec
        self._config = config
        self._on_progress = on_progress
        self._server = SharedServer(spec, config)
        self.target = self._server.target
        self.origin: Literal["embedded"] = "embedded"
        self.lost = False
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._serving = False
        self._told = False
        """Whether progress was reported for a start that has not finished yet."""
        self._idle = IdleTimer(config.idle_stop_s, self._release)

    @property
    def log(self) -> Path | None:
        """File that the server logs to, whichever process started it; None before the first start."""
        return self._server.log

    @property
    def pid(self) -> int | None:
        """Process id of the server, None while it does not run."""
        return self._server.pid

    @property
    def restarts(self) -> int:
        """Number of times that its server ended unexpectedly and was replaced."""
        return self._server.restarts

    def is_ready(self) -> bool:
        """Return whether the process serves, as far as is known."""
        return self._serving and not self.lost and self._server.is_alive()

    def ready(self, timeout_s: float) -> None:
        """See `core.pool.backend.Backend.ready`."""
        self._idle.touch()
        if self.is_ready() and not self._closing.is_set():
            return
        until_s = time.monotonic() + timeout_s
        if not self._lock.acquire(timeout=min(timeout_s, threading.TIMEOUT_MAX)):
            raise self._too_late()
        try:
            self._check_open()
            if not self.is_ready():
                self._make_ready(until_s)
        finally:
            self._lock.release()

    def begin_use(self) -> None:
        """Note that a call begins; the server is not released until it ends. Call it before `is_ready` and `ready`."""
        self._idle.begin()

    def end_use(self) -> None:
        """Note that a call has ended."""
        self._idle.end()

    def close(self) -> None:
        """Release the server, which ends with its last user. Idempotent; does nothing in a forked child."""
        if os.getpid() != self._pid or self._closing.is_set():
            return
        self._closing.set()
        with self._lock:
            self._idle.stop()
            self._serving = False
            self._server.leave()

    def _release(self) -> None:
        with self._lock:
            # In this order: a call that begins now finds it not serving and waits for the lock, or is seen by `claim`.
            serving, self._serving = self._serving, False
            if self._idle.claim():
                self._server.leave()
            else:
                self._serving = serving

    def _make_ready(self, until_s: float) -> None:
        pause = partial(self._pause, until_s, time.monotonic() + self._config.startup_timeout_s)
        if self._serving and self._server.is_alive() and self._is_hung(until_s):
            self._server.kill(pause)
        self._serving = False
        while not self._server.is_alive() or not self._wait_serving(until_s, pause):
            attached = self._server.attach(pause)
            self._idle.start()
            log = self._server.log
            if attached != "joined" and log is not None:
                self._tell(Starting(skill=self._spec.name, log=log, restart=attached == "restarted"))
            elif self._server.is_old() and self._is_hung(until_s):
                self._server.kill(pause)
        self._serving, self.lost = True, False

    def _is_hung(self, until_s: float) -> bool:
        """Return whether a running server that has served does not answer any more.

        Raises:
            DeadlineError: The caller's time is too short to find out.
        """
        patience_s, left_s = self._config.health_timeout_s, until_s - time.monotonic()
        timeout_s = max(0.0, min(patience_s, left_s))
        why: list[str] = []

        def ask() -> None:
            why.append(why_silent(self.target, self._spec.health_service, timeout_s=timeout_s))

        asking = threading.Thread(target=ask, name="sarai-health", daemon=True)
        asking.start()
        while asking.is_alive():
            asking.join(_TICK_S)
            self._check_open()
            if not self._server.is_alive():
                return False  # it was ending, not hung
        if any(why) and left_s < patience_s:
            raise self._too_late()
        return any(why)

    def _wait_serving(self, until_s: float, pause: Callable[[], None]) -> bool:
        """Wait until the server serves. Return False if another process's server has gone, which is not a failure."""
        started_s, gives_up_s = self._server.started_s, self._server.gives_up_s(time.monotonic())
        reported_s = time.monotonic()
        watch: HealthWatch | None = None
        try:
            while watch is None or not watch.serving:
                if not self._check_start(watch, pause):
                    return False
                now = time.monotonic()
                if now >= gives_up_s:
                    self._server.kill(pause)
                    what = f"was not SERVING {gives_up_s - started_s:g} s after its start"
                    raise self._server.failed(SkillStartTimeoutError, what)
                if now >= until_s:
                    raise self._too_late()
                if now - reported_s >= _REPORT_EVERY_S:
                    reported_s = now
                    self._tell(Waiting(skill=self._spec.name, elapsed_s=now - started_s))
                watch = self._follow(watch, gives_up_s - now)
        finally:
            if watch is not None:
                watch.close()
        if self._told:  # otherwise it was already running
            elapsed_s = time.monotonic() - started_s
            self._tell(Serving(skill=self._spec.name, elapsed_s=elapsed_s, target=self.target))
            self._told = False
        return True

    def _follow(self, watch: HealthWatch | None, timeout_s: float) -> HealthWatch | None:
        """Wait briefly for a change of the server's health."""
        if watch is None and self._server.socket.exists():
            watch = HealthWatch(self.target, self._spec.health_service, timeout_s=timeout_s)
        if watch is not None and watch.ended is None:
            watch.wait(_TICK_S)
            return watch
        if watch is not None:  # not listening yet, or gone again
            watch.close()
        self._closing.wait(_TICK_S)
        return None

    def _check_start(self, watch: HealthWatch | None, pause: Callable[[], None]) -> bool:
        """Return whether to keep waiting; raise if that is pointless."""
        self._check_open()
        if not self._server.is_alive():
            if self._server.started_here:
                raise self._server.failed(SkillStartError, f"{self._server.how_it_ended()} while it was starting")
            return False
        if watch is not None and watch.ended is grpc.StatusCode.UNIMPLEMENTED:
            self._server.kill(pause)
            raise self._server.failed(SkillStartError, "does not serve grpc.health.v1, which reports when it is ready")
        return True

    def _pause(self, until_s: float, gives_up_s: float) -> None:
        """Wait between two tries to lock the server's directory."""
        self._check_open()
        if time.monotonic() >= until_s:
            raise self._too_late()
        if time.monotonic() >= gives_up_s:
            raise self._server.failed(SkillStartTimeoutError, "is held up: another process keeps its directory locked")
        self._closing.wait(_TICK_S)

    def _tell(self, event: Progress) -> None:
        self._told = True
        self._on_progress(event)

    def _check_open(self) -> None:
        if self._closing.is_set():
            raise PoolClosedError("the pool is closed")

    def _too_late(self) -> DeadlineError:
        return DeadlineError(
            code=grpc.StatusCode.DEADLINE_EXCEEDED,
            details="its local process is still starting",
            skill=self._spec.name,
            target=self.target,
        )
