"""Replicas as processes of this user with Unix sockets: those that programs start by themselves, and more of them."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from core.local.numbered import MOST, NumberedServers
from core.local.shared import Patience, SharedServer
from core.rpc.health import why_silent
from core.scaling.replicas import Running, share_out, usable_cores

if TYPE_CHECKING:
    from core.config import PoolConfig
    from core.skill import SkillSpec

_log = logging.getLogger(__name__)
_LOOK_S = 0.2
_JOINED_WITHIN_S = 1.0


class LocalReplicas:
    """The numbered local servers of a skill, each on cores of its own.

    Number 0 is the one that programs start by themselves when they find none, so it is the last to go. What is started
    here stays if this process ends, however it ends; another one adopts it.

    Args:
        spec: The skill.
        config: The settings. They and the environment decide which servers are the same as those of other programs.
        pins: Whether to give cores to replicas that are there already; False to change nothing.
    """

    def __init__(self, spec: SkillSpec, config: PoolConfig, *, pins: bool = True) -> None:
        self._spec, self._config, self._pins = spec, config, pins
        self._numbered = NumberedServers(spec, config)
        self._cores = usable_cores()
        self._held: dict[int, SharedServer] = {}
        self._asked: set[int] = set()
        """Numbers that are being started by a thread."""
        self._draining: set[int] = set()
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self.failed_starts = 0

    @property
    def starting(self) -> int:
        """See `Actuator`."""
        return len(self._asked)

    @property
    def draining(self) -> int:
        """See `Actuator`."""
        return len(self._draining)

    def replicas(self) -> list[Running]:
        """See `Actuator`."""
        with self._lock:
            self._note_ended()
            running = self._numbered.running()
            for number in running:
                if number not in self._held and number not in self._asked:
                    self._join(number)
            there = sorted(set(self._held) - self._draining)
        if self._pins:
            self._pin(there)
        return [self._running(number) for number in there]

    def _running(self, number: int) -> Running:
        server = self._held[number]
        return Running(
            id=f"{number}@{server.started_s}", name=f"process {server.pid or number}",
            target=self._numbered.target(number), last=number == 0,
        )  # fmt: skip

    def _note_ended(self) -> None:
        for number, server in list(self._held.items()):
            if not server.is_alive() and number not in self._draining:
                del self._held[number]
                server.leave()

    def _join(self, number: int) -> None:
        server = self._server(number)
        with contextlib.suppress(OSError):  # it is just being started, or has gone
            if server.join(Patience(_JOINED_WITHIN_S)):
                self._held[number] = server

    def _server(self, number: int) -> SharedServer:
        return SharedServer(self._spec, self._config, number=number, kept=True)

    # --- up ---

    def start(self, count: int) -> None:
        """See `Actuator`."""
        with self._lock:
            taken = {*self._held, *self._asked, *self._numbered.running()}
            numbers = [number for number in range(MOST) if number not in taken][:count]
            self._asked.update(numbers)
            there = sorted({*self._held, *self._asked} - self._draining)
        parts = dict(zip(there, share_out(self._cores, len(there)), strict=True))
        self._pin(there)  # first, so that the new ones do not compete for cores
        for number in numbers:
            try:
                threading.Thread(
                    target=self._start, args=(number, parts[number]), name="sarai-start", daemon=True
                ).start()  # fmt: skip
            except RuntimeError as error:  # no more threads here
                self._note_start(number, None, error)

    def _start(self, number: int, cores: tuple[int, ...]) -> None:
        """Start a server, which inherits the cores of this thread."""
        try:
            os.sched_setaffinity(0, cores)
            server = self._server(number)
            server.attach(Patience(self._config.startup_timeout_s, self._closing))
        except Exception as error:  # noqa: BLE001  # whatever it is, it must not count as one that starts for ever
            self._note_start(number, None, error)
        else:
            self._note_start(number, server)

    def _note_start(self, number: int, server: SharedServer | None, error: Exception | None = None) -> None:
        with self._lock:
            self._asked.discard(number)
            if server is None:
                _log.warning("a replica did not start: %s", error)
                self.failed_starts += 1
            elif self._closing.is_set():
                server.leave()
            else:
                self._held[number] = server

    # --- down ---

    def drain(self, id_: str) -> None:
        """See `Actuator`."""
        number = int(id_.partition("@")[0])
        with self._lock:
            server = self._held.get(number)
            if server is None or server.pid is None:
                return
            threading.Thread(target=self._await_end, args=(number, server), name="sarai-drain", daemon=True).start()
            self._draining.add(number)
            with contextlib.suppress(ProcessLookupError):
                os.kill(server.pid, signal.SIGTERM)

    def _await_end(self, number: int, server: SharedServer) -> None:
        """Kill a server that hangs: one that drains answers as long as it runs, however long its calls take."""
        patience_s = self._config.health_timeout_s
        while not self._closing.wait(_LOOK_S) and server.is_alive():
            if why := why_silent(server.target, self._spec.health_service, timeout_s=patience_s):
                _log.warning("process %s is killed: %s", server.pid, why)
                with contextlib.suppress(TimeoutError):
                    server.kill(Patience(patience_s, self._closing))
        server.forget_end(Patience(patience_s, self._closing))
        with self._lock:
            self._draining.discard(number)

    def close(self) -> None:
        """See `Actuator`."""
        self._closing.set()
        with self._lock:
            for server in self._held.values():
                server.leave()
            self._held.clear()

    # --- cores ---

    def _pin(self, numbers: list[int]) -> None:
        """Give each server cores of its own. Its engine follows within about a second."""
        for number, cores in zip(numbers, share_out(self._cores, len(numbers)), strict=True):
            server = self._held.get(number)
            if server is not None and server.pid is not None:
                _pin_group(server.pid, set(cores))


def _pin_group(leader: int, cores: set[int]) -> None:
    """Let a process and its children run on these cores alone."""
    for pid in (leader, *_children(leader)):
        for task in _numbers(Path(f"/proc/{pid}/task")):
            with contextlib.suppress(OSError):  # it has ended
                if os.sched_getaffinity(task) != cores:
                    os.sched_setaffinity(task, cores)


def _children(pid: int) -> list[int]:
    with contextlib.suppress(OSError, ValueError):
        own = [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        return own + [grandchild for child in own for grandchild in _children(child)]
    return []


def _numbers(folder: Path) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(entry.name) for entry in folder.iterdir()]
    return []
