"""Replicas as containers of the compose project, each published on a port of its own (docker-compose.scale.yml).

Compose takes away the container with the highest number, whatever it does, and can bring containers but not choose. So
it starts replicas, and the container engine stops the one that is to go, by its id.
"""

from __future__ import annotations

import contextlib
import logging
import subprocess
import tempfile
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

from core.errors import ComposeError
from core.local.compose import BASE_FILE, SCALE_FILE, Container, Project, docker, environment, find_project, inspect
from core.scaling.replicas import Running, share_out, usable_cores, words

if TYPE_CHECKING:
    from core.skill import SkillSpec

_log = logging.getLogger(__name__)
_GONE = ("exited", "dead", "removing", "created")


class Containers:
    """The containers of a skill's service, each on cores of its own.

    Args:
        spec: The skill.
        project: The compose project, by default that of the source tree.
        pins: Whether to give cores to containers; False to change nothing.
        lock: Descriptor of the autoscaler's lock, which compose holds too while it brings containers.

    Raises:
        NoComposeError: There is no source tree, no compose, or no engine.
    """

    def __init__(
        self, spec: SkillSpec, *, project: Project | None = None, pins: bool = True, lock: int | None = None
    ) -> None:
        project = project or find_project()
        self._project = replace(project, files=(project.folder / BASE_FILE, project.folder / SCALE_FILE))
        self._spec, self._pins, self._lock_fds = spec, pins, () if lock is None else (lock,)
        self._cores = usable_cores()
        self._pinned: dict[str, str] = {}
        self._draining: set[str] = set()
        self._lock = threading.Lock()
        self._starts: subprocess.Popen[bytes] | None = None
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  # closed by `close`; a pipe would end compose with us
        self._asked = self._there = 0
        self.failed_starts = 0

    @property
    def starting(self) -> int:
        """See `Actuator`."""
        return self._asked

    @property
    def draining(self) -> int:
        """See `Actuator`."""
        return len(self._draining)

    def replicas(self) -> list[Running]:
        """See `Actuator`."""
        self._note_started()
        with self._lock:
            draining = set(self._draining)  # before the look, as one that has gone meanwhile is still seen by it
        there = [each for each in self._containers() if each.state not in _GONE and each.id not in draining]
        self._asked = max(0, self._asked - max(0, len(there) - self._there)) if self._starts else 0
        self._there = len(there)
        if self._pins:
            self._pin(there)
        return [Running(id=each.id, name=each.name, target=each.ports.get(self._spec.port, "")) for each in there]

    def _containers(self) -> list[Container]:
        """Return the containers, oldest first. The engine is asked, as compose v1 takes a second to answer."""
        labels = {"service": self._spec.container, "project.working_dir": str(self._project.folder)}
        if self._project.name:
            labels["project"] = self._project.name
        chosen = [
            part for key, value in labels.items() for part in ("--filter", f"label=com.docker.compose.{key}={value}")
        ]
        ids = docker("ps", "--all", "--quiet", "--no-trunc", *chosen).split()
        try:
            return sorted(inspect(ids), key=lambda each: each.started)
        except ComposeError:  # one has gone meanwhile
            return [each for id_ in ids for each in _inspected(id_)]

    # --- up ---

    def start(self, count: int) -> None:
        """See `Actuator`. While compose is at it, nothing more is asked for."""
        if self._starts is not None:
            return
        wanted = self._there + len(self._draining) + count  # compose counts those that drain too
        command = self._project.argv(
            "up", "-d", "--no-recreate", f"--scale={self._spec.container}={wanted}", self._spec.container
        )
        _log.info("$ %s", " ".join(command))
        self._asked = count
        # In a session of its own, which Ctrl-C does not reach: half a start would be left behind.
        self._starts = subprocess.Popen(
            command, cwd=self._project.folder, env=environment(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=self._said, start_new_session=True, pass_fds=self._lock_fds,
        )  # fmt: skip
        threading.Thread(target=self._starts.wait, name="sarai-start", daemon=True).start()

    def _note_started(self) -> None:
        starts = self._starts
        if starts is None or starts.poll() is None:
            return
        self._said.seek(0)
        said = self._said.read().decode(errors="replace").strip()
        self._said.truncate(0)
        self._said.seek(0)
        self._starts = None
        if starts.returncode:
            _log.warning("no more containers: %s", said.rpartition("\n")[2])
            self.failed_starts += 1

    # --- down ---

    def drain(self, id_: str) -> None:
        """See `Actuator`."""
        with self._lock:
            threading.Thread(target=self._stop, args=(id_,), name="sarai-drain", daemon=True).start()
            self._draining.add(id_)

    def _stop(self, id_: str) -> None:
        # Within the time that its compose file grants it.
        try:
            docker("stop", id_)
            docker("rm", id_)
        except ComposeError as error:
            _log.warning("a container does not go: %s", error)
        with self._lock:
            self._draining.discard(id_)

    def close(self) -> None:
        """See `Actuator`."""
        self._said.close()

    # --- cores ---

    def _pin(self, containers: list[Container]) -> None:
        """Give each container cores of its own. Its engine follows within about a second."""
        parts = share_out(self._cores, len(containers))
        self._pinned = {each.id: self._pinned.get(each.id, "") for each in containers}
        for container, cores in zip(containers, map(words, parts), strict=True):
            if self._pinned[container.id] == cores:
                continue
            with contextlib.suppress(ComposeError):  # it has gone
                docker("update", "--cpuset-cpus", cores, container.id)
                self._pinned[container.id] = cores


def _inspected(id_: str) -> list[Container]:
    with contextlib.suppress(ComposeError):
        return inspect([id_])
    return []
