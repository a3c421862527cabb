"""The image skill in its container: it answers, within its limits, and is as restricted as the others."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.errors import InvalidRequestError, RequestTooLargeError
from core.pool.client import SkillClient
from core.testing import SkillContainer, SkillContainers
from skills.skill_image import image_pb2
from tests.docker.asking import MARKS
from tests.pictures import corners, decoded, encoded, gradient, png_header, quarters, turned

pytestmark = MARKS
Served = tuple[SkillClient, SkillContainer]


@pytest.fixture(scope="module")
def image(skill_container: SkillContainers) -> Iterator[Served]:
    """Start a container as users run it."""
    with skill_container.own("image") as served:
        yield served


def test_picture_comes_back_over_the_published_port(image: Served) -> None:
    client, _ = image
    answer = client.Normalize(image_pb2.NormalizeRequest(image=turned(quarters(), 8)), timeout=60)
    assert corners(decoded(answer.image)) == corners(quarters())


def test_health_turns_healthy_by_the_probe(image: Served) -> None:
    _, container = image
    container.wait_health("healthy")
    container.exec("/opt/sarai/health_probe", "127.0.0.1", "50061")


def test_limits_are_those_of_the_plugin(image: Served) -> None:
    _, container = image
    limits = container.docker("inspect", "--format", "{{.HostConfig.NanoCpus}} {{.HostConfig.Memory}}").split()
    assert limits == ["1000000000", str(512 << 20)]


def test_it_runs_as_nobody_and_can_become_nobody_else(image: Served) -> None:
    _, container = image
    assert container.exec("id", "-u").strip() == "10001"
    fields = dict(
        line.split(":\t", 1) for line in container.exec("cat", "/proc/1/status").splitlines() if ":\t" in line
    )
    assert int(fields["CapEff"], 16) == int(fields["CapBnd"], 16) == 0
    assert fields["NoNewPrivs"] == "1"
    assert container.exec("sh", "-c", "find / -xdev -type f -perm /6000 2>/dev/null || true") == ""
    with pytest.raises(AssertionError, match=r"Read-only|Permission denied"):
        container.exec("touch", "/opt/sarai/app/written")


def test_bad_pictures_are_refused_and_it_goes_on(image: Served) -> None:
    client, container = image
    for _ in range(3):
        with pytest.raises(InvalidRequestError):
            client.Normalize(image_pb2.NormalizeRequest(image=b"no picture"), timeout=60)
        with pytest.raises(RequestTooLargeError):
            client.Normalize(image_pb2.NormalizeRequest(image=png_header(60_000, 60_000)), timeout=60)
    assert client.Health().status == "SERVING"
    assert container.inspect().restarts == 0


def test_largest_picture_that_is_decoded_fits_into_the_memory(image: Served) -> None:
    client, container = image
    largest = encoded(gradient(6000, 4000).convert("RGBA"), compress_level=1)
    answer = client.Normalize(image_pb2.NormalizeRequest(image=largest), timeout=100)
    assert (answer.source_width, answer.source_height) == (6000, 4000)
    assert "ended the decoder" not in container.logs()


def test_image_holds_neither_compilers_nor_llama_cpp(image: Served) -> None:
    _, container = image
    listed = container.exec("sh", "-c", "ls /opt/sarai/packages; command -v gcc pip || true").split()
    assert "PIL" in listed
    assert not {"llama_cpp", "numpy", "/usr/bin/gcc", "/usr/bin/pip"} & set(listed)


def test_buildkit_builds_it_too(clone: Path, plugins_config: Path) -> None:
    tag = f"sarai-test-image-buildkit:{os.getpid()}"
    environment = {**os.environ, "DOCKER_CONFIG": str(plugins_config), "BUILDKIT_PROGRESS": "plain"}
    build = ["docker", "buildx", "build", "--load", "-t", tag, "-f", "skills/skill_image/Dockerfile", "."]
    try:
        done = subprocess.run(
            build, cwd=clone, env=environment, capture_output=True, text=True, timeout=280, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
    finally:
        subprocess.run(["docker", "rmi", tag], capture_output=True, check=False)
