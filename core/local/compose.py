"""Docker Compose, whichever is installed: v2, a plugin of the docker command, or v1, a command of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.errors import ComposeError, NoComposeError, one_line

BASE_FILE = "docker-compose.yml"
SCALE_FILE = "docker-compose.scale.yml"
STEERING = (
    "COMPOSE_FILE", "COMPOSE_PATH_SEPARATOR", "COMPOSE_PROJECT_NAME", "COMPOSE_ENV_FILES", "COMPOSE_DISABLE_ENV_FILE",
)  # fmt: skip
"""Variables that choose compose's files and project name. The caller's may be meant for another project; this
project's own are in the `.env` of its folder, which compose reads."""
_QUICK_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """A container as the engine sees it."""

    id: str
    name: str
    service: str
    """Its name in the compose files."""
    state: str
    """created, running, paused, restarting, exited or dead."""
    health: str
    """starting, healthy or unhealthy; empty if the image has no health check."""
    exit_code: int
    restarts: int
    """Number of restarts by its restart policy."""
    pid: int
    """Process id of its first process on the engine's machine; 0 if it does not run."""
    image: str
    started: str
    """Time of the last start, RFC 3339."""
    ports: Mapping[int, str]
    """Addresses that its ports are published at: `{50051: "127.0.0.1:50051"}`."""

    @property
    def ended(self) -> bool:
        """Whether it has ended, and will not be restarted automatically."""
        return self.state in ("exited", "dead")


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """A compose project: a folder with its files, and the compose command."""

    command: tuple[str, ...]
    folder: Path
    files: tuple[Path, ...] = ()
    """By default those that compose finds by itself: the base file and its override."""
    name: str = ""
    """By default compose's own choice, the folder's name."""

    def argv(self, *arguments: str) -> list[str]:
        """Return the whole command line of a compose command."""
        chosen = [part for file in self.files for part in ("-f", str(file))]
        return [*self.command, *chosen, *(("-p", self.name) if self.name else ()), *arguments]

    def ask(self, *arguments: str) -> str:
        """Run a compose command that changes nothing, and return its output.

        Raises:
            ComposeError: It failed.
        """
        return _ask(self.argv(*arguments), cwd=self.folder)

    def services(self) -> list[str]:
        """Return the names of its services."""
        return self.ask("config", "--services").split()

    def containers(self, *services: str) -> list[Container]:
        """Return the containers of some of its services, by default of all, including ended ones."""
        # Compose v2 lists ended containers only with --all, and v1.29 does without an id where there is none.
        ids = self.ask("ps", "--all", "--quiet", *services).split()
        return inspect(ids)


def environment() -> dict[str, str]:
    """Return this environment without what would lead compose to another project, for every compose command."""
    return {name: value for name, value in os.environ.items() if name not in STEERING}


def find_command() -> tuple[str, ...]:
    """Return the compose command: `docker compose` if the docker command has it, else `docker-compose`.

    Raises:
        NoComposeError: Neither is installed.
    """
    if shutil.which("docker") is not None and _succeeds("compose", "version"):
        return ("docker", "compose")
    if shutil.which("docker-compose") is not None:
        return ("docker-compose",)
    raise NoComposeError(
        "there is neither `docker compose` nor `docker-compose`: install one of them, or do without: `sarai serve`"
    )


def find_project() -> Project:
    """Return the project of the source tree.

    Raises:
        NoComposeError: There is no source tree, no compose, or no engine.
    """
    command = find_command()
    _ask(["docker", "version", "--format", "{{.Server.Version}}"])
    tree = find_tree()
    if tree is None:
        raise NoComposeError(f"{Path.cwd()} is in no source tree of SARAi: go to the folder of your clone")
    return Project(command=command, folder=tree)


def find_tree() -> Path | None:
    """Return the source tree around the current directory, else the one that this file is in; None if there is neither.

    A folder with another project's compose file does not count.
    """
    here = Path.cwd()
    for folder in (here, *here.parents, Path(__file__).resolve().parents[2]):
        if (folder / BASE_FILE).is_file() and (folder / "skills" / "skills.proto").is_file():
            return folder
    return None


def build_command(project: Project, service: str, image: str) -> list[str]:
    """Return the command that builds a service's image: the tree's tool, which can make the base image, or compose."""
    if (project.folder / "tools" / "skill_image.py").is_file():
        return ["python3", "-m", "tools.skill_image", "--folder", f"skills/{service}", "--tag", image]
    return project.argv("build", service)


def has_image(image: str) -> bool:
    """Return whether the engine has an image."""
    return _succeeds("image", "inspect", image)


def docker(*arguments: str) -> str:
    """Run a command of the container engine, and return its output.

    Raises:
        ComposeError: It failed.
    """
    return _ask(["docker", *arguments])


def inspect(ids: Sequence[str]) -> list[Container]:
    """Inspect containers by their ids.

    Raises:
        ComposeError: One of them does not exist.
    """
    if not ids:
        return []
    return [_container(each) for each in json.loads(_ask(["docker", "inspect", "--type", "container", *ids]))]


def _container(about: Mapping[str, Any]) -> Container:
    state = about["State"]
    bindings = about["NetworkSettings"]["Ports"] or {}
    return Container(
        id=about["Id"],
        name=about["Name"].lstrip("/"),
        service=about["Config"]["Labels"].get("com.docker.compose.service", ""),
        state=state["Status"],
        health=(state.get("Health") or {}).get("Status", ""),
        exit_code=state["ExitCode"],
        restarts=about["RestartCount"],
        pid=state["Pid"],
        image=about["Config"]["Image"],
        started=state["StartedAt"],
        ports={int(port.split("/")[0]): _address(to[0]) for port, to in bindings.items() if to},
    )


def _address(binding: Mapping[str, str]) -> str:
    host = binding["HostIp"]
    # Published on all addresses: the loopback address always works.
    return f"{'127.0.0.1' if host in ('', '0.0.0.0', '::') else host}:{binding['HostPort']}"  # noqa: S104


def _succeeds(*arguments: str) -> bool:
    done = subprocess.run(
        ["docker", *arguments],  # noqa: S607  # found by the user's PATH
        stdin=subprocess.DEVNULL, capture_output=True, timeout=_QUICK_S, check=False,
    )  # fmt: skip
    return done.returncode == 0


def _ask(argv: Sequence[str], cwd: Path | None = None) -> str:
    try:
        done = subprocess.run(
            argv, cwd=cwd, env=environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=_QUICK_S, check=False,
        )  # fmt: skip
    except FileNotFoundError:
        raise NoComposeError(
            f"there is no {argv[0]} command: install a container engine, or do without: `sarai serve`"
        ) from None
    except subprocess.TimeoutExpired:
        raise ComposeError(f"`{' '.join(argv)}` gave no answer within {_QUICK_S:g} s") from None
    if done.returncode != 0:
        said = one_line(done.stderr.strip()) or f"exit code {done.returncode}"
        if argv[:2] == ["docker", "version"]:
            raise NoComposeError(
                f"the container engine does not answer (start it, or do without: `sarai serve`): {said}"
            )
        raise ComposeError(f"`{' '.join(argv)}` failed: {said}")
    return done.stdout
