"""The process of a local server: its start, its lifeline, its log, its end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
import weakref
from pathlib import Path
from typing import TYPE_CHECKING

from core.errors import SkillStartError

if TYPE_CHECKING:
    from core.config import PoolConfig
    from core.skill import SkillSpec

_KEPT_LOGS = 20
_TAIL_LINES = 5
_TAIL_BYTES = 4096

_lifelines: weakref.WeakSet[ServerProcess] = weakref.WeakSet()


def _drop_lifelines() -> None:
    """In a forked child: the parent's servers must not live on with the child, which has a copy of their pipes."""
    for server in list(_lifelines):
        server.forget()


os.register_at_fork(after_in_child=_drop_lifelines)


class ServerProcess:
    """A server that was started here. It ends when this process does, however that happens.

    It reads from a pipe whose other end only this process holds, and ends at the end of that. It has a session of its
    own, so that Ctrl-C in the terminal reaches only us: we decide when it goes.

    Raises:
        SkillStartError: the process cannot be started.
    """

    def __init__(self, spec: SkillSpec, address: str, config: PoolConfig) -> None:
        self._spec = spec
        self.log = _new_log(config.log_dir, spec.name)
        self.started_s = time.monotonic()
        self.serving = False
        """Whether it has said SERVING."""
        command = [sys.executable, *spec.serve, "--listen", address, "--lifeline"]
        try:
            with self.log.open("ab") as log:
                # No `with`: it lives longer than this function.
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    env=_environment(),
                )
        except OSError as error:
            raise SkillStartError(f"cannot be started: {error}", skill=spec.name, log=None) from error
        _lifelines.add(self)

    def exit_code(self) -> int | None:
        """What it ended with, negative for a signal; None while it runs."""
        return self._process.poll()

    def log_tail(self) -> tuple[str, ...]:
        """The last lines of its log that are not empty."""
        try:
            with self.log.open("rb") as log:
                log.seek(max(0, self.log.stat().st_size - _TAIL_BYTES))
                lines = log.read().decode(errors="replace").splitlines()
        except OSError:
            return ()
        return tuple(line.strip() for line in lines if line.strip())[-_TAIL_LINES:]

    def stop(self, grace_s: float) -> None:
        """Ends it: asks, waits so many seconds, then kills it with all that it has started."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(grace_s)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        _lifelines.discard(self)

    def forget(self) -> None:
        """In a forked child: lets go of the parent's server."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        # Keeps Popen from asking for, and warning about, a process that is not this one's child.
        self._process.returncode = 0


def end_of(exit_code: int) -> str:
    """How a process ended, in words."""
    if exit_code >= 0:
        return f"ended with exit code {exit_code}"
    try:
        return f"was ended by {signal.Signals(-exit_code).name}"
    except ValueError:
        return f"was ended by signal {-exit_code}"


def _environment() -> dict[str, str]:
    """Ours, and what lets the server find the modules that this process finds, from wherever they were loaded."""
    path = os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path)
    quiet = {"GRPC_VERBOSITY": "ERROR"}
    return quiet | dict(os.environ) | {"PYTHONPATH": path}


def _new_log(folder: Path, skill: str) -> Path:
    """A new empty log file, readable for this user only; of those that are there, the newest stay."""
    name = f"{time.strftime('%Y%m%dT%H%M%S')}-{os.getpid()}-"
    try:
        own = folder / skill
        own.mkdir(mode=0o700, parents=True, exist_ok=True)
        for old in sorted(own.glob("*.log"))[: -(_KEPT_LOGS - 1)]:
            old.unlink(missing_ok=True)
        descriptor, path = tempfile.mkstemp(prefix=name, suffix=".log", dir=own)
    except OSError:  # a home that cannot be written to is no reason not to start
        descriptor, path = tempfile.mkstemp(prefix=f"sarai-{skill}-{name}", suffix=".log")
    os.close(descriptor)
    return Path(path)
