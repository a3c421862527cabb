"""A pytest plugin: skills in containers, for the tests of skills and of programs that use them.

    def test_answers(skill_container):
        draft = skill_container("draft")
        assert draft.Generate(skills_pb2.GenReq(prompt="Hello"), timeout=30).text

The image is built once a session. The containers have a project name of their own, a free port, and the limits of
`docker-compose.scale.yml`, which the skill is a service of; they are removed by that name. Needs pytest-docker.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from core.local.compose import Container, Project
    from core.pool.client import SkillClient
    from core.skill import SkillSpec

START_TIMEOUT_S = 180.0
_EXEC_TIMEOUT_S = 60.0


class SkillContainer:
    """A container of a skill, and the means to inspect and disturb it."""

    def __init__(self, project: Project, spec: SkillSpec, target: str) -> None:
        self._project, self._spec = project, spec
        self.target = target
        """Address that its port is published at."""
        (found,) = project.containers(spec.container)
        self.id = found.id

    def inspect(self) -> Container:
        """Return its current state."""
        from core.local.compose import inspect

        (found,) = inspect([self.id])
        return found

    def docker(self, command: str, *arguments: str, before: bool = False, timeout_s: float = _EXEC_TIMEOUT_S) -> str:
        """Run a docker command on the container, e.g. `docker("stop", "-t", "40")`, and return its output.

        Args:
            command: The command.
            arguments: Arguments between the command and the container.
            before: Whether the container comes before the arguments, as for `docker top`.
            timeout_s: Time limit, seconds.

        Raises:
            AssertionError: It failed.
        """
        ordered = (self.id, *arguments) if before else (*arguments, self.id)
        return _docker(command, *ordered, timeout_s=timeout_s)

    def exec(self, *command: str) -> str:
        """Run a command inside, and return its output. Raises `AssertionError` if it fails."""
        return _docker("exec", self.id, *command)

    def logs(self) -> str:
        """Return its standard output and standard error so far."""
        done = subprocess.run(
            ["docker", "logs", self.id],  # noqa: S607  # found by the user's PATH
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            timeout=_EXEC_TIMEOUT_S, check=False,
        )  # fmt: skip
        return done.stdout

    def kill_9(self) -> None:
        """Kill its first process as a crash would.

        `docker kill` would not do: it counts as intended, so the restart policy does not restart the container.
        """
        pid = self.inspect().pid
        # From a container, as it takes root, and the engine may run on another machine.
        _docker("run", "--rm", "--pid=host", "--network=none", "--user=0", "--entrypoint=/bin/sh", self.inspect().image,
                "-c", f"kill -9 {pid}")  # fmt: skip

    def wait_serving(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Wait until it reports SERVING. Raises `AssertionError` with its log if it does not in time."""
        from core.rpc.health import check_serving

        until_s = time.monotonic() + timeout_s
        while not check_serving(self.target, self._spec.health_service, timeout_s=2.0):
            assert time.monotonic() < until_s, f"not SERVING after {timeout_s:g} s:\n{self.logs()}"
            time.sleep(0.05)

    def wait_health(self, health: str, timeout_s: float = START_TIMEOUT_S) -> None:
        """Wait until the engine reports this health, e.g. `healthy`. Raises `AssertionError` if not in time."""
        until_s = time.monotonic() + timeout_s
        while self.inspect().health != health:
            assert time.monotonic() < until_s, f"{self.inspect()} after {timeout_s:g} s:\n{self.logs()}"
            time.sleep(0.2)


class SkillContainers:
    """Provides clients for skills in containers, and removes what it started."""

    def __init__(self, config: pytest.Config, folder: Path) -> None:
        self._config, self._folder = config, folder
        self._stack = contextlib.ExitStack()
        self._shared: dict[str, tuple[SkillClient, SkillContainer]] = {}
        self._built: set[str] = set()
        self._number = 0

    def __call__(self, name: str) -> SkillClient:
        """Return a ready client for a skill in a container that all tests of the session share."""
        return self._of_session(name)[0]

    def container(self, name: str) -> SkillContainer:
        """Return that container, to inspect but not to disturb."""
        return self._of_session(name)[1]

    def _of_session(self, name: str) -> tuple[SkillClient, SkillContainer]:
        if name not in self._shared:
            self._shared[name] = self._stack.enter_context(self.own(name))
        return self._shared[name]

    @contextlib.contextmanager
    def own(
        self,
        name: str,
        *,
        environment: Mapping[str, str] | None = None,
        service: Mapping[str, Any] | None = None,
        ready: bool = True,
    ) -> Iterator[tuple[SkillClient, SkillContainer]]:
        """Provide a client and a container for this test alone, which may disturb it.

        Args:
            name: Name of the skill.
            environment: Variables of the container.
            service: Further entries of the service, as in a compose file: `{"mem_limit": "200m"}`.
            ready: Whether to wait until it serves.
        """
        from core.pool.client import SkillClient

        spec = self.build(name)
        port = _free_port()
        project = self._project(spec, {**(service or {}), "environment": dict(environment or {})})
        with _up(project, spec, port):
            container = SkillContainer(project, spec, f"127.0.0.1:{port}")
            if ready:
                container.wait_serving()
            with SkillClient.at(spec, container.target) as client:
                yield client, container

    def build(self, name: str) -> SkillSpec:
        """Build the skill's image from the tree as it is, once per session, and return the skill's description."""
        from core.local.compose import build_command, find_project
        from core.plugins import get_plugins

        spec = get_plugins().skill(name)
        if spec.image in self._built:
            return spec
        project = find_project()
        capture = self._config.pluginmanager.getplugin("capturemanager")
        with capture.global_and_fixture_disabled() if capture else contextlib.nullcontext():
            # Shown on the terminal, as the first build takes minutes.
            done = subprocess.run(build_command(project, spec.container, spec.image), cwd=project.folder, check=False)
        assert done.returncode == 0, f"the image of skill {spec.name} cannot be built"
        self._built.add(spec.image)
        return spec

    def close(self) -> None:
        """Remove the shared containers."""
        self._stack.close()

    def _project(self, spec: SkillSpec, service: Mapping[str, Any]) -> Project:
        from core.local.compose import BASE_FILE, SCALE_FILE, Project, find_project

        here = find_project()
        self._number += 1
        name = f"sarai-test-{os.getpid()}-{self._number}"
        overlay = self._folder / f"{name}.json"  # JSON is YAML
        overlay.write_text(json.dumps({"services": {spec.container: service}}), encoding="utf-8")
        files = (here.folder / BASE_FILE, here.folder / SCALE_FILE, overlay)
        return Project(command=here.command, folder=here.folder, files=files, name=name)


@contextlib.contextmanager
def _up(project: Project, spec: SkillSpec, port: int) -> Iterator[None]:
    from pytest_docker.plugin import get_docker_services

    down = "down --volumes --remove-orphans --timeout 3"
    command, files = " ".join(project.command), [str(file) for file in project.files]
    with contextlib.ExitStack() as stack:
        # Before the start, so that a start that fails halfway is removed too.
        stack.enter_context(get_docker_services(command, files, project.name, [], [down]))
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(spec.ports_variable, str(port))
            start = [f"up -d --no-build {spec.container}"]
            stack.enter_context(get_docker_services(command, files, project.name, start, []))
        yield


@pytest.fixture(scope="session")
def skill_container(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SkillContainers]:
    """Provide skills in containers: `skill_container("draft")` returns a ready client. See `SkillContainers`."""
    containers = SkillContainers(pytestconfig, tmp_path_factory.mktemp("compose"))
    try:
        yield containers
    finally:
        containers.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _docker(*arguments: str, timeout_s: float = _EXEC_TIMEOUT_S) -> str:
    done = subprocess.run(
        ["docker", *arguments],  # noqa: S607  # the same
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_s, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"docker {' '.join(arguments)}: {done.stderr}"
    return done.stdout
