"""Check whether tests with containers can run on this machine, and prepare what they need.

If they cannot run, the reason is one line, with a remedy.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from skills.skill_draft import IMAGE
from tools import base_image, debian, docker_plugins, skill_image
from tools.step import StepError, last_line, logs

ROOT = Path(__file__).resolve().parent.parent
DRAFT_FOLDER, DRAFT_TAG = ROOT / "skills" / "skill_draft", IMAGE
REQUIRED = "SARAI_REQUIRE_DOCKER"
_ENGINE_TIMEOUT_S = 30.0


class NoContainersError(Exception):
    """No container can be tested here; the text is one line: the reason and a remedy."""


def are_required() -> bool:
    """Return whether it is an error if they cannot be tested, as in CI."""
    return os.environ.get(REQUIRED) == "1"


def check() -> None:
    """Check, without building anything, whether they can be tested; a base image that can be pulled is pulled.

    Raises:
        NoContainersError: They cannot.
    """
    _check_engine()
    if base_image.is_there() or base_image.pull():
        return
    if (reason := base_image.why_not_made()) is not None:
        raise NoContainersError(reason)


def prepare() -> None:
    """Build what the tests need: Compose, the base image and the draft skill's image. Progress goes to standard error.

    Raises:
        NoContainersError: One of these is not available on this machine.
        StepError: The image's own build failed.
    """
    check()
    _find_compose()
    try:
        if not base_image.is_there():
            base_image.make(logs() / "base-image.log")
    except StepError as error:
        raise NoContainersError(last_line(error)) from error
    try:
        skill_image.build(DRAFT_FOLDER, DRAFT_TAG)
    except skill_image.NoNetworkError as error:
        raise NoContainersError(last_line(error)) from error


def _check_engine() -> None:
    if shutil.which("docker") is None:
        raise NoContainersError("there is no docker command: install Docker (on Debian: apt-get install docker.io)")
    try:
        asked = subprocess.run(
            ["docker", "info"], capture_output=True, text=True, timeout=_ENGINE_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise NoContainersError(
            f"`docker info` gave no answer in {_ENGINE_TIMEOUT_S:g} s: restart the engine"
        ) from None
    if asked.returncode != 0:
        why = last_line(asked.stderr) or f"exit code {asked.returncode}"
        help_ = (
            "join the group docker" if "permission denied" in why else "start the engine, or point DOCKER_HOST at one"
        )
        raise NoContainersError(f"`docker info` fails ({why}): {help_}")


def _find_compose() -> None:
    """Make Compose available to the docker command; if it is missing, use Debian's plugin, for this process only."""
    if shutil.which("docker-compose") is not None or docker_plugins.has("compose"):
        return
    try:
        os.environ["DOCKER_CONFIG"] = str(docker_plugins.config_dir())
    except debian.UnavailableError as error:
        raise NoContainersError(
            f"there is neither `docker compose` nor `docker-compose`; install one ({error})"
        ) from None
