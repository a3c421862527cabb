"""Containers of the draft skill for tests: with the tiny model, which loads in milliseconds, or unmodified."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.pool.client import SkillClient
from core.testing import SkillContainer, SkillContainers
from skills.skill_draft.plugin import sarai_skills
from tests.docker.asking import OwnTiny, tiny_service
from tests.servers import ROOT
from tools import debian, docker_plugins

SPEC = sarai_skills()[0]


@pytest.fixture(scope="session")
def draft(skill_container: SkillContainers) -> tuple[SkillClient, SkillContainer]:
    """Start a container as users run it, with the embedded model. It is shared, so tests must not disturb it."""
    return skill_container("draft"), skill_container.container("draft")


@pytest.fixture
def own_tiny(skill_container: SkillContainers) -> OwnTiny:
    """Return a function that makes a container with the tiny model for one test, which may disturb it.

    It keeps no answers: these tests ask the same again to see what the engine does.
    """

    def make(
        *, environment: dict[str, str] | None = None, service: dict[str, object] | None = None
    ) -> contextlib.AbstractContextManager[tuple[SkillClient, SkillContainer]]:
        settings = {"SKILL_DRAFT_N_CTX": "1024", "SKILL_DRAFT_THREADS": "1", "SKILL_DRAFT_CACHE_MB": "0"}
        settings |= environment or {}
        return skill_container.own("draft", environment=settings, service={**tiny_service(), **(service or {})})

    return make


@pytest.fixture(scope="session")
def plugins_config() -> Path:
    """Return a DOCKER_CONFIG with BuildKit's builder and Compose v2, which most users have."""
    try:
        return docker_plugins.config_dir()
    except debian.UnavailableError as error:
        if os.environ.get("SARAI_REQUIRE_DOCKER") == "1":
            raise
        pytest.skip(f"no docker plugins: {error}")


@pytest.fixture(params=["docker-compose", "docker compose"])
def compose(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """Return the command of Compose v1, then of Compose v2, as far as this machine has or can install them."""
    if request.param == "docker-compose":
        if shutil.which("docker-compose") is None:
            pytest.skip("no docker-compose: Compose v1 is a command of its own")
    elif subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode != 0:
        monkeypatch.setenv("DOCKER_CONFIG", str(request.getfixturevalue("plugins_config")))
    return tuple(request.param.split())


@pytest.fixture
def clone(tmp_path: Path) -> Iterator[Path]:
    """Create a copy of the tree like a fresh clone: tracked and new files, without models and build results."""
    folder = tmp_path / f"sarai-clone-{os.getpid()}"
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def free_name_and_port() -> None:
    """Require that the fixed container name and port are free; on a developer's machine they may be taken."""
    there = subprocess.run(["docker", "container", "inspect", SPEC.container], capture_output=True, check=False)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", SPEC.port))
            taken = there.returncode == 0
        except OSError:
            taken = True
    if taken and os.environ.get("SARAI_REQUIRE_DOCKER") == "1":
        pytest.fail(f"a container {SPEC.container} or a server on port {SPEC.port} is here already")
    if taken:
        pytest.skip(f"a container {SPEC.container} or a server on port {SPEC.port} is here; this test would stop it")
