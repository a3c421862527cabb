"""A local server that is shared by all processes of a user that want the same one. The last one to leave ends it.

Its state lies in one directory (`core.local.rundir`), which is locked while a process joins or leaves: the socket, the
lifeline (`core.local.lifeline`), and a record for those that join later.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from core.errors import SkillRestartLimitError, SkillStartError
from core.local.lifeline import Lifeline, close_held, is_read, make_lifeline
from core.local.process import ServerProcess, end_of, kill_group, log_tail, new_log, server_environment
from core.local.rundir import Record, RunDir, numbered, share_key
from core.rpc.faults import HeldInterrupts

if TYPE_CHECKING:
    from core.config import PoolConfig
    from core.skill import SkillSpec

Attached = Literal["joined", "started", "restarted"]
"""It was running; it was started here; it was started here to replace one that had ended unexpectedly."""

FIRST_BACKOFF_S = 0.1
MAX_BACKOFF_S = 5.0
"""Bounds of the delay before a restart, seconds; it doubles with each restart in the window."""

_TICK_S = 0.01
_KILLED_WITHIN_S = 5.0


class SharedServer:
    """A server of a skill, held from `attach` to `leave`. One thread at a time may call these; the rest is thread-safe.

    Args:
        spec: The skill.
        config: The settings.
        number: Which of several equal servers it is; 0 is the one that programs start by themselves.
        kept: Whether the server, if it is started here, stays when its last user has left, until it is told to end.
    """

    def __init__(self, spec: SkillSpec, config: PoolConfig, *, number: int = 0, kept: bool = False) -> None:
        self._spec = spec
        self._config = config
        self._kept = kept
        # Read once, so that a restart gives the same server although the environment may have changed.
        self._environment = server_environment()
        name = numbered(share_key(spec, self._environment), number) if config.share_embedded else None
        self._dir = RunDir(name)
        self.socket = self._dir.socket
        self.target = f"unix:{self.socket}"
        self.record: Record | None = None
        """Record of the server that is held, or was held last."""
        self.restarts = 0
        """Number of times that the server held here ended unexpectedly and was replaced."""
        self._lifeline: Lifeline | None = None
        self._process: ServerProcess | None = None
        self._held_s = 0.0

    @property
    def log(self) -> Path | None:
        """File that the server logs to."""
        return Path(self.record.log) if self.record else None

    @property
    def pid(self) -> int | None:
        """Process id of the server, None if it does not run."""
        if not self.is_alive():
            return None
        return self.record.pid if self.record and self.record.pid else self._dir.server_pid()

    @property
    def started_s(self) -> float:
        """Time of its start on the monotonic clock, seconds; without a record, when it was joined."""
        return self.record.started_s if self.record else self._held_s

    def is_old(self) -> bool:
        """Return whether its time to start is over, so that it must have served: otherwise it would have been ended."""
        return self.record is not None and time.monotonic() >= self.record.gives_up_s

    def gives_up_s(self, now_s: float) -> float:
        """Return until when a caller that starts to wait at `now_s` should wait for SERVING, on the monotonic clock."""
        if self.record is None or self.is_old():
            return now_s + self._config.startup_timeout_s
        return self.record.gives_up_s

    @property
    def started_here(self) -> bool:
        """Whether the server is a child of this process."""
        return self._process is not None

    def is_alive(self) -> bool:
        """Return whether the server is held and running. Takes microseconds."""
        lifeline, process = self._lifeline, self._process
        return lifeline is not None and lifeline.is_read() and (process is None or process.exit_code() is None)

    def is_there(self) -> bool:
        """Return whether a server could be joined now, without joining it."""
        return self._config.share_embedded and is_read(self._dir.lifeline)

    def attach(self, pause: Callable[[], None]) -> Attached:
        """Join the running server, or start one.

        Args:
            pause: Called between tries; waits a little, or raises.

        Raises:
            SkillRestartLimitError: It was restarted too often recently.
            SkillStartError: It cannot be started.
        """
        # Of one that was told to end nothing is left (`forget_end`).
        ended_unasked, noticed_s = self._lifeline is not None and self._dir.lifeline.exists(), time.monotonic()
        while True:
            try:
                with self._dir.locked(pause):
                    if self._lifeline is not None and self._lifeline.is_current():
                        self._await_end(0.0)  # processes that it started may still run
                    attached = self._join() or self._start(noticed_s)
            except OSError as error:
                raise SkillStartError(f"cannot be started: {error}", skill=self._spec.name, log=None) from error
            if attached:
                self.restarts += ended_unasked
                return attached
            pause()

    def join(self, pause: Callable[[], None]) -> bool:
        """Join the server if it runs; return whether it does.

        Args:
            pause: As for `attach`.

        Raises:
            OSError: As `RunDir.locked`.
        """
        with self._dir.locked(pause):
            return self._join() is not None

    def _join(self) -> Attached | None:
        try:
            with HeldInterrupts():
                lifeline = Lifeline(self._dir.lifeline)
                if not lifeline.is_last():
                    self._hold(lifeline, Record.read(self._dir.record), None)
                    return "joined"
                lifeline.close()
        except OSError:
            return None  # no server reads from it
        # Its users were killed, so it is ending; a process that joined it now would soon lose it.
        self._await_end(self._config.stop_grace_s)
        return None

    def _start(self, noticed_s: float) -> Attached | None:
        """Start a server in place of the one that ended; return None if it is too early for that."""
        now = time.monotonic()
        before = Record.read(self._dir.record)
        restarts = tuple(s for s in before.restarts if 0 <= now - s < self._config.restart_window_s) if before else ()
        # If that is not the server held here, another process has replaced ours and counted the restart.
        again = self._lifeline is not None and self._lifeline.is_current()
        if again:
            self._check_limit(restarts, now)
            if now < noticed_s + min(FIRST_BACKOFF_S * 2 ** len(restarts), MAX_BACKOFF_S):
                return None
            restarts += (now,)
        try:
            self._run(restarts)
        except Exception:
            self._dir.remove()
            raise
        return "restarted" if again else "started"

    def _check_limit(self, restarts: tuple[float, ...], now: float) -> None:
        window_s, limit = self._config.restart_window_s, self._config.restart_limit
        if len(restarts) >= limit:
            raise self.failed(
                SkillRestartLimitError,
                f"was started again {limit} times within {window_s:g} s and ended each time; "
                f"not again for {window_s - (now - restarts[0]) if restarts else window_s:.0f} s",
            )

    def _run(self, restarts: tuple[float, ...]) -> None:
        self.socket.unlink(missing_ok=True)
        log = new_log(self._config.log_dir, self._spec.name)
        now = time.monotonic()
        record = Record(log=str(log), started_s=now, gives_up_s=now + self._config.startup_timeout_s, restarts=restarts)
        with HeldInterrupts():
            record.write(self._dir.record)  # without the previous process id
            reading = make_lifeline(self._dir.lifeline, kept=self._kept)
            try:
                lifeline = Lifeline(self._dir.lifeline)
                try:
                    process = ServerProcess(
                        self._spec, address=self.target, environment=self._environment, lifeline=reading, log=log
                    )
                except BaseException:
                    lifeline.close()
                    raise
            finally:
                close_held(reading)
            record = replace(record, pid=process.pid)
            self._hold(lifeline, record, process)
            with contextlib.suppress(OSError):  # full disk: others will not know which process to kill
                record.write(self._dir.record)

    def _hold(self, lifeline: Lifeline, record: Record | None, process: ServerProcess | None) -> None:
        if self._lifeline is not None:
            self._lifeline.close()
        if self._process is not None:
            self._process.release()
        self._lifeline, self.record, self._process, self._held_s = lifeline, record, process, time.monotonic()

    def leave(self) -> None:
        """Release the server. If no other process uses it, end it and remove its directory."""
        lifeline, process = self._lifeline, self._process
        if lifeline is None:
            return
        self._lifeline = self._process = None
        try:
            with self._dir.locked(Patience(self._config.stop_grace_s + _KILLED_WITHIN_S)):
                last = lifeline.is_current() and lifeline.is_last()
                lifeline.close()
                if last or not self._dir.lifeline.exists():
                    self._await_end(self._config.stop_grace_s)
                    if process is not None:
                        process.exit_code(_KILLED_WITHIN_S)
                    self._dir.remove()
        except OSError:
            pass  # directory replaced, or still locked; the kernel counts the users anyway
        finally:
            lifeline.close()
            if process is not None:
                process.release()

    def forget_end(self, pause: Callable[[], None]) -> None:
        """Remove what a server has left that was told to end: its users start another one, and it is no restart."""
        with contextlib.suppress(OSError), self._dir.locked(pause):
            if self._lifeline is not None and self._lifeline.is_current() and not self.is_alive():
                self._dir.remove()

    def kill(self, pause: Callable[[], None]) -> None:
        """Kill the server, unless it was already replaced."""
        with contextlib.suppress(OSError), self._dir.locked(pause):
            if self._lifeline is not None and self._lifeline.is_current():
                self._await_end(0.0)

    def _await_end(self, grace_s: float) -> None:
        """Wait up to `grace_s` for the server to end, then kill it. The directory must be locked."""
        kill_s = time.monotonic() + grace_s
        killed = False
        while is_read(self._dir.lifeline):
            now = time.monotonic()
            if killed and now >= kill_s + _KILLED_WITHIN_S:
                return  # hangs in the kernel, where not even SIGKILL ends it
            if not killed and now >= kill_s:
                if (pid := self._dir.server_pid()) is not None:
                    kill_group(pid)
                killed = True
            time.sleep(_TICK_S)

    def failed(self, kind: type[SkillStartError], what: str) -> SkillStartError:
        """Return an error about this server, with the end of its log."""
        exit_code = self._process.exit_code() if self._process is not None else None
        return kind(what, skill=self._spec.name, log=self.log, exit_code=exit_code, log_tail=log_tail(self.log))

    def how_it_ended(self) -> str:
        """Return in words how the server ended. It has ended, or is about to."""
        return end_of(self._process.exit_code(1.0) if self._process is not None else None)


class Patience:
    """Waits a little at each call, and raises TimeoutError once `seconds` have passed or `closing` is set."""

    def __init__(self, seconds: float, closing: threading.Event | None = None) -> None:
        self._until_s, self._closing = time.monotonic() + seconds, closing or threading.Event()

    def __call__(self) -> None:
        """Wait, or raise."""
        if time.monotonic() >= self._until_s or self._closing.wait(_TICK_S):
            raise TimeoutError("its directory is locked by another process")
