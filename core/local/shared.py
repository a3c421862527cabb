"""A local server that all processes of a user share which want the same one. The last one to leave ends it.

Everything about it lies in one directory (`core.local.rundir`), which is locked while somebody comes or goes: the
socket, the lifeline (`core.local.lifeline`), and a record of what those who come later should know.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from core.errors import SkillRestartLimitError, SkillStartError
from core.local.lifeline import Lifeline, close_held, is_read, make_lifeline
from core.local.process import ServerProcess, end_of, kill_group, log_tail, new_log, server_environment
from core.local.rundir import Record, RunDir, share_key
from core.rpc.faults import HeldInterrupts

if TYPE_CHECKING:
    from core.config import PoolConfig
    from core.skill import SkillSpec

Attached = Literal["joined", "started", "restarted"]
"""It was there; it was started here; one before it had ended unasked, and this one was started here."""

FIRST_BACKOFF_S = 0.1
MAX_BACKOFF_S = 5.0
"""Between the end of a server and its restart: doubling with each restart within the window."""

_TICK_S = 0.01
_KILLED_WITHIN_S = 5.0


class SharedServer:
    """A server of a skill, held from `attach` to `leave`. One thread at a time may come or go; all may ask.

    Args:
        spec: the skill.
        config: the settings.
    """

    def __init__(self, spec: SkillSpec, config: PoolConfig) -> None:
        self._spec = spec
        self._config = config
        # Taken once: a restart gives the same server, whatever the environment has become.
        self._environment = server_environment()
        self._dir = RunDir(share_key(spec, self._environment) if config.share_embedded else None)
        self.socket = self._dir.socket
        self.target = f"unix:{self.socket}"
        self.record: Record | None = None
        """Of the server that is held, or was held last."""
        self.restarts = 0
        """How often the server that was held here ended unasked and was replaced."""
        self._lifeline: Lifeline | None = None
        self._process: ServerProcess | None = None

    @property
    def log(self) -> Path | None:
        """The file that it writes its log to."""
        return Path(self.record.log) if self.record else None

    @property
    def pid(self) -> int | None:
        """The id of its process, None if there is none."""
        return self.record.pid if self.record and self.is_alive() else None

    @property
    def started_s(self) -> float:
        """When it was started, on the monotonic clock."""
        return self.record.started_s if self.record else time.monotonic()

    def is_old(self) -> bool:
        """Whether the time for its start is over, so that it has served, or somebody would have ended it."""
        return self.record is not None and time.monotonic() >= self.record.gives_up_s

    def gives_up_s(self, now_s: float) -> float:
        """Until when it is to be SERVING, for somebody who begins to wait for that now."""
        if self.record is None or self.is_old():
            return now_s + self._config.startup_timeout_s
        return self.record.gives_up_s

    @property
    def started_here(self) -> bool:
        """Whether it is this process's child."""
        return self._process is not None

    def is_alive(self) -> bool:
        """Whether it is held and has not ended. Takes microseconds."""
        lifeline, process = self._lifeline, self._process
        return lifeline is not None and lifeline.is_read() and (process is None or process.exit_code() is None)

    def is_there(self) -> bool:
        """Whether there is one that could be joined, whoever started it. Holds nothing."""
        return self._config.share_embedded and is_read(self._dir.lifeline)

    def attach(self, pause: Callable[[], None]) -> Attached:
        """Holds the server that there is; starts one if there is none.

        Args:
            pause: called between tries; waits a little, or raises.

        Raises:
            SkillRestartLimitError: it has been started too often of late.
            SkillStartError: it cannot be started.
        """
        ended_unasked, noticed_s = self._lifeline is not None, time.monotonic()
        while True:
            try:
                with self._dir.locked(pause):
                    if self._lifeline is not None and self._lifeline.is_current():
                        self._await_end(0.0)  # what it had started may still be there
                    attached = self._join() or self._start(noticed_s)
            except OSError as error:
                raise SkillStartError(f"cannot be started: {error}", skill=self._spec.name, log=None) from error
            if attached:
                self.restarts += ended_unasked
                return attached
            pause()

    def _join(self) -> Attached | None:
        try:
            with HeldInterrupts():
                lifeline = Lifeline(self._dir.lifeline)
                if not lifeline.is_last():
                    self._hold(lifeline, Record.read(self._dir.record), None)
                    return "joined"
                lifeline.close()
        except OSError:
            return None  # nobody reads there
        # Its users were killed. It is ending, and would strand who comes now.
        self._await_end(self._config.stop_grace_s)
        return None

    def _start(self, noticed_s: float) -> Attached | None:
        """Starts a server in place of what has ended, None if it is too early for that."""
        now = time.monotonic()
        before = Record.read(self._dir.record)
        restarts = tuple(s for s in before.restarts if 0 <= now - s < self._config.restart_window_s) if before else ()
        # If it is not the one that was held, somebody else has replaced that and counted it.
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
            record.write(self._dir.record)  # without the id of the one before
            reading = make_lifeline(self._dir.lifeline)
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
            with contextlib.suppress(OSError):  # a full disk; others will not know whom to kill, if ever they have to
                record.write(self._dir.record)

    def _hold(self, lifeline: Lifeline, record: Record | None, process: ServerProcess | None) -> None:
        if self._lifeline is not None:
            self._lifeline.close()
        if self._process is not None:
            self._process.let_go()
        self._lifeline, self.record, self._process = lifeline, record, process

    def leave(self) -> None:
        """Lets go of the server; ends it if nobody else uses it, and removes what is left."""
        lifeline, process = self._lifeline, self._process
        if lifeline is None:
            return
        self._lifeline = self._process = None
        try:
            with self._dir.locked(_Patience(self._config.stop_grace_s + _KILLED_WITHIN_S)):
                last = lifeline.is_current() and lifeline.is_last()
                lifeline.close()
                if last or not self._dir.lifeline.exists():
                    self._await_end(self._config.stop_grace_s)
                    if process is not None:
                        process.exit_code(_KILLED_WITHIN_S)
                    self._dir.remove()
        except OSError:
            pass  # the directory is not what it was, or stays locked; the kernel counts the users all the same
        finally:
            lifeline.close()
            if process is not None:
                process.let_go()

    def kill(self, pause: Callable[[], None]) -> None:
        """Kills the server, unless somebody has replaced it already."""
        with contextlib.suppress(OSError), self._dir.locked(pause):
            if self._lifeline is not None and self._lifeline.is_current():
                self._await_end(0.0)

    def _await_end(self, grace_s: float) -> None:
        """Waits so many seconds until the server is gone, then kills it. The directory is locked."""
        kill_s = time.monotonic() + grace_s
        killed = False
        while is_read(self._dir.lifeline):
            now = time.monotonic()
            if killed and now >= kill_s + _KILLED_WITHIN_S:
                return  # not even SIGKILL ends what hangs in the kernel
            if not killed and now >= kill_s:
                record = Record.read(self._dir.record)
                if record is not None and record.pid is not None:
                    kill_group(record.pid)
                killed = True
            time.sleep(_TICK_S)

    def failed(self, kind: type[SkillStartError], what: str) -> SkillStartError:
        """An error about this server, with what its log says."""
        exit_code = self._process.exit_code() if self._process is not None else None
        return kind(what, skill=self._spec.name, log=self.log, exit_code=exit_code, log_tail=log_tail(self.log))

    def how_it_ended(self) -> str:
        """In words. It is gone, or just going."""
        return end_of(self._process.exit_code(1.0) if self._process is not None else None)


class _Patience:
    """Waits a little each time, so many seconds in all."""

    def __init__(self, seconds: float) -> None:
        self._until_s = time.monotonic() + seconds

    def __call__(self) -> None:
        if time.monotonic() >= self._until_s:
            raise TimeoutError
        time.sleep(_TICK_S)
