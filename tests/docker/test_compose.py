"""The compose files and the Dockerfile as users use them, on a fresh clone, with both generations of tools."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.local.compose import BASE_FILE, SCALE_FILE, Project
from core.testing import SkillContainers
from skills.skill_draft.plugin import sarai_skills
from tests.docker.asking import CALL_S, MARKS
from tests.servers import ROOT

pytestmark = MARKS
SPEC = sarai_skills()[0]
SNIPPET = """
from core.model_pool import get_model_pool
from skills import skills_pb2

pool = get_model_pool()
draft = pool.get_skill_client("draft")
answer = draft.Generate(skills_pb2.GenReq(prompt="Hello", max_tokens=8, temperature=0.7, stop=["###"]), timeout=100.0)
print(answer.tokens_generated, draft.origin, draft.target)
"""


@contextlib.contextmanager
def up(project: Project, *options: str) -> Iterator[None]:
    """Run `up -d … skill_draft`, and remove everything afterwards."""
    try:
        run([*project.command, *project.argv()[len(project.command) :], "up", "-d", *options], project.folder)
        yield
    finally:
        run(project.argv("down", "--volumes", "--timeout", "3"), project.folder)


def run(command: list[str], folder: Path, *, timeout_s: float = 280.0, **environment: str) -> str:
    done = subprocess.run(
        command, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        timeout=timeout_s, check=False, env={**os.environ, **environment},
    )  # fmt: skip
    assert done.returncode == 0, f"{command}: {done.stdout}"
    return done.stdout


@pytest.mark.usefixtures("free_name_and_port")
def test_up_on_a_fresh_clone_serves_the_pool(clone: Path, compose: tuple[str, ...]) -> None:
    project = Project(command=compose, folder=clone)
    with up(project, "skill_draft"):
        assert [each.name for each in project.containers("skill_draft")] == ["skill_draft"]
        wait_serving(clone)
        tokens, origin, target = run([sys.executable, "-c", SNIPPET], clone, PYTHONPATH=str(clone)).split()[-3:]
        assert int(tokens) > 0
        assert (origin, target) == ("container", "127.0.0.1:50051")
        # A limit above the documented one could get another project's container killed for memory.
        inspected = json.loads(run(["docker", "inspect", "skill_draft"], clone))[0]
        host = inspected["HostConfig"]
        assert (host["NanoCpus"], host["Memory"], host["ReadonlyRootfs"]) == (2_000_000_000, 3 << 30, True)
        assert (host["CapDrop"], host["SecurityOpt"]) == (["ALL"], ["no-new-privileges:true"])
        assert host["RestartPolicy"]["Name"] == "unless-stopped"
        assert host["LogConfig"]["Config"] == {"max-size": "10m", "max-file": "3"}
        assert inspected["Config"]["StopTimeout"] == 40
        assert "serving the small embedded one" in run(["docker", "logs", "skill_draft"], clone)


def test_two_replicas_share_a_name_in_the_network_and_have_a_port_each(
    clone: Path, compose: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SARAI_DRAFT_PORTS", "51151-51158")
    files = (clone / BASE_FILE, clone / SCALE_FILE)
    project = Project(command=compose, folder=clone, files=files, name=f"sarai-scale-{os.getpid()}")
    with up(project, "--scale", "skill_draft=2", "skill_draft"):
        containers = project.containers("skill_draft")
        targets = {each.ports[50051] for each in containers}
        assert len(targets) == 2
        for target in targets:
            wait_serving(clone, target)
        stats = run([sys.executable, "-m", "sarai", "cache", "stats", "--json"], clone, PYTHONPATH=str(clone))
        assert {json.loads(line)["target"] for line in stats.splitlines()} == targets
        addresses = run(
            ["docker", "exec", containers[0].id, "python3", "-c",
             "import socket; print(*{a[4][0] for a in socket.getaddrinfo('draft', 50051)})"],
            clone,
        )  # fmt: skip
        assert len(addresses.split()) == 2


def test_scale_file_differs_from_the_override_in_name_and_port_alone(clone: Path, compose: tuple[str, ...]) -> None:
    texts = []
    for file in ("docker-compose.override.yml", SCALE_FILE):
        project = Project(command=compose, folder=clone, files=(clone / BASE_FILE, clone / file), name="same")
        texts.append(project.ask("config").splitlines())
    differing = {line.strip().split(":")[0].lstrip("- ") for line in set(texts[0]) ^ set(texts[1])}
    assert differing <= {"container_name", "published", "127.0.0.1"}, differing
    assert differing


def test_the_file_with_a_store_goes_on_top_of_either(clone: Path, compose: tuple[str, ...]) -> None:
    for file in ("docker-compose.override.yml", SCALE_FILE):
        files = (clone / BASE_FILE, clone / file, clone / "docker-compose.answers.yml")
        text = Project(command=compose, folder=clone, files=files, name="same").ask("config")
        assert "SKILL_DRAFT_CACHE_SHARED: valkey://answers:6379" in text
        assert "valkey/valkey:8-alpine" in text
        assert f"{clone}/answers.secret" in text
        assert "/run/secrets/answers" in text


def test_command_line_brings_a_skill_up_shows_it_and_takes_it_down(
    clone: Path, compose: tuple[str, ...], free_name_and_port: None
) -> None:
    del free_name_and_port, compose  # the fixture makes the command line find this version of Compose
    sarai = [sys.executable, "-m", "sarai"]

    def call(*arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run([*sarai, *arguments], cwd=clone, capture_output=True, text=True, timeout=280, check=False,
                              env={**os.environ, "PYTHONPATH": str(clone)})  # fmt: skip
        assert done.returncode == code, done.stderr
        return done

    assert "up -d skill_draft" in call("up", "--dry-run").stdout
    assert call("ps").stdout == ""
    try:
        serving = [json.loads(line) for line in call("up", "draft", "--json").stdout.splitlines()][-1]
        assert (serving["event"], serving["target"]) == ("serving", "127.0.0.1:50051")
        (row,) = map(json.loads, call("ps", "--json").stdout.splitlines())
        assert (row["skill"], row["container"], row["state"]) == ("draft", "skill_draft", "running")
        assert "skill_draft" in call("ps").stdout
        assert "serving SmolLM2" in call("logs", "draft").stdout
        lines = [json.loads(line) for line in call("logs", "--json", "--tail", "2").stdout.splitlines()]
        assert [line["container"] for line in lines] == ["skill_draft"] * 2
        assert "in the container" in call("draft", "--max-tokens", "4", "--stats", "Hello").stderr
        assert "down" in call("down", "--dry-run").stdout
        assert json.loads(call("ps", "--json").stdout)["state"] == "running"
    finally:
        call("down", "-q")
    assert call("ps").stdout == ""
    assert subprocess.run(
        ["docker", "container", "inspect", "skill_draft"], capture_output=True, check=False
    ).returncode


def test_another_project_stays_up_whatever_the_callers_environment_says(
    clone: Path, compose: tuple[str, ...], tmp_path: Path
) -> None:
    file, name = tmp_path / BASE_FILE, f"sarai-foreign-{os.getpid()}"
    file.write_text(json.dumps({"services": {"theirs": {"image": SPEC.image, "entrypoint": ["sleep", "300"]}}}))
    project = Project(command=compose, folder=tmp_path, files=(file,), name=name)
    down = [sys.executable, "-m", "sarai", "down", "-q"]
    with up(project):
        run(down, clone, PYTHONPATH=str(clone), COMPOSE_FILE=str(file), COMPOSE_PROJECT_NAME=name)
        run(down, tmp_path, PYTHONPATH=str(clone), COMPOSE_PROJECT_NAME=name)
        assert [each.state for each in project.containers()] == ["running"]


def test_build_from_the_skills_own_folder_gives_the_same_layers(clone: Path) -> None:
    give_wheel(clone)
    layers = {}
    try:
        for name, folder in (("root", clone), ("folder", clone / "skills" / "skill_draft")):
            tag = f"sarai-test-{name}:{os.getpid()}"
            file = ["-f", "skills/skill_draft/Dockerfile"] if folder == clone else []
            run(["docker", "build", "-t", tag, *file, "."], folder, DOCKER_BUILDKIT="0")
            (about,) = json.loads(run(["docker", "image", "inspect", tag], folder))
            layers[name] = about["RootFS"]["Layers"]
    finally:
        for name in ("root", "folder"):
            subprocess.run(["docker", "rmi", f"sarai-test-{name}:{os.getpid()}"], capture_output=True, check=False)
    assert layers["root"] == layers["folder"]


def test_buildkit_builds_it_from_the_skills_own_folder(
    clone: Path, plugins_config: Path, skill_container: SkillContainers
) -> None:
    give_wheel(clone)
    tag = f"sarai-test-buildkit:{os.getpid()}"
    folder = clone / "skills" / "skill_draft"
    environment = {"DOCKER_CONFIG": str(plugins_config), "BUILDKIT_PROGRESS": "plain"}
    try:
        run(["docker", "buildx", "build", "--load", "-t", tag, "."], folder, timeout_s=290, **environment)
        with skill_container.own("draft", service={"image": tag}) as (client, _):
            assert client.Health().status == "SERVING"
    finally:
        subprocess.run(["docker", "rmi", tag], capture_output=True, check=False)


def give_wheel(clone: Path) -> None:
    """Copy the wheel that this machine has compiled, as `make image` does, so that the builder need not compile it."""
    if (ROOT / ".wheels").is_dir():
        shutil.copytree(ROOT / ".wheels", clone / ".wheels")
        shutil.copytree(ROOT / ".wheels", clone / "skills" / "skill_draft" / ".wheels")


def wait_serving(clone: Path, target: str = "") -> None:
    """Wait until `sarai health` reports SERVING, as a user would."""
    at = ["--target", target] if target else []
    command = f"until {sys.executable} -m sarai health -q {' '.join(at)}; do :; done"
    run(["timeout", str(int(CALL_S)), "sh", "-c", command], clone, PYTHONPATH=str(clone))
