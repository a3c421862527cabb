"""The process of a local server: its start, its log and its end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from core.errors import SkillStartError

if TYPE_CHECKING:
    from core.skill import SkillSpec


_started: weakref.WeakSet[ServerProcess] = weakref.WeakSet()


def _forget_all() -> None:
    for server in list(_started):
        server.forget()


os.register_at_fork(after_in_child=_forget_all)


class ServerProcess:
    """A server that was started here. It ends when its lifeline has no users any more (`core.local.lifeline`).

    It has a session of its own: Ctrl-C in the terminal does not reach it, and it forms one group with its children.

    Args:
        spec: The skill.
        address: Where to listen.
        environment: Its environment.
        lifeline: Descriptor that becomes its standard input.
        log: File that it writes to.

    Raises:
        SkillStartError: The process cannot be started.
    """

    def __init__(
        self, spec: SkillSpec, *, address: str, environment: Mapping[str, str], lifeline: int, log: Path
    ) -> None:
        # -P: import modules from PYTHONPATH, not those that happen to lie in this process's working directory.
        safe = ("-P",) if spec.serve[0] == "-m" else ()
        command = [sys.executable, *safe, *spec.serve, "--listen", address, "--lifeline"]
        try:
            with log.open("ab") as output:
                # No `with`: it outlives this function, and maybe this process.
                self._process = subprocess.Popen(
                    command,
                    stdin=lifeline,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    env=environment,
                )
        except OSError as error:
            raise SkillStartError(f"cannot be started: {error}", skill=spec.name, log=None) from error
        self.pid = self._process.pid
        _started.add(self)

    def exit_code(self, wait_s: float = 0.0) -> int | None:
        """Return its exit code, negative for a signal; None if it still runs after `wait_s`."""
        try:
            return self._process.wait(wait_s) if wait_s else self._process.poll()
        except subprocess.TimeoutExpired:
            return None

    def release(self) -> None:
        """Release the process, which may live on for others. It is reaped when it ends, and Popen does not warn."""
        if self._process.poll() is None:
            try:
                threading.Thread(target=self._process.wait, name="sarai-reaper", daemon=True).start()
            except RuntimeError:  # this process is ending: init will reap it
                self.forget()

    def forget(self) -> None:
        """Keep Popen from waiting for, and warning about, what is not, or soon will not be, this process's child."""
        self._process.returncode = 0


def kill_group(pid: int) -> None:
    """Kill a server with all that it has started. While any of that runs, the kernel does not reuse its number."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def end_of(exit_code: int | None) -> str:
    """Return in words how a process ended. None: its exit code is not known here."""
    if exit_code is None:
        return "ended"
    if exit_code >= 0:
        return f"ended with exit code {exit_code}"
    try:
        return f"was ended by {signal.Signals(-exit_code).name}"
    except ValueError:
        return f"was ended by signal {-exit_code}"


def server_environment() -> dict[str, str]:
    """Return this environment, with a PYTHONPATH by which a server finds the modules that this process finds."""
    path = os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path)
    quiet = {"GRPC_VERBOSITY": "ERROR"}
    return quiet | dict(os.environ) | {"PYTHONPATH": path}


_KEPT = 20
_TAIL_LINES = 5
_TAIL_BYTES = 4096


def new_log(folder: Path, skill: str) -> Path:
    """Make an empty log file in the skill's folder, readable by this user only, and remove the oldest ones there."""
    name = f"{time.strftime('%Y%m%dT%H%M%S')}-{os.getpid()}-"
    try:
        own = folder / skill
        own.mkdir(mode=0o700, parents=True, exist_ok=True)
        for old in sorted(own.glob("*.log"))[: -(_KEPT - 1)]:
            old.unlink(missing_ok=True)
        descriptor, path = tempfile.mkstemp(prefix=name, suffix=".log", dir=own)
    except OSError:  # an unwritable home is no reason not to start
        descriptor, path = tempfile.mkstemp(prefix=f"sarai-{skill}-{name}", suffix=".log")
    os.close(descriptor)
    return Path(path)


def log_tail(path: Path | None) -> tuple[str, ...]:
    """Return the last lines of a log that are not empty."""
    if path is None:
        return ()
    try:
        with path.open("rb") as log:
            log.seek(max(0, path.stat().st_size - _TAIL_BYTES))
            lines = log.read().decode(errors="replace").splitlines()
    except OSError:
        return ()
    return tuple(line.strip() for line in lines if line.strip())[-_TAIL_LINES:]
