"""Tests with containers run where there is an engine. Where there is none they are skipped; CI makes that an error."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess

import pytest


def pytest_configure() -> None:
    """What a shell starts in the background ignores Ctrl-C, and the processes of tests would inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _missing_engine() -> str | None:
    """Why no container can be started here, or None where one can."""
    if shutil.which("docker") is None:
        return "no container engine: there is no docker command"
    asked = subprocess.run(["docker", "info"], capture_output=True, text=True, timeout=30, check=False)
    return None if asked.returncode == 0 else "no container engine: `docker info` fails"


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    with_containers = [item for item in items if item.get_closest_marker("docker")]
    if not with_containers or (reason := _missing_engine()) is None:
        return
    if os.environ.get("SARAI_REQUIRE_DOCKER") == "1":
        raise pytest.UsageError(f"{reason}, and SARAI_REQUIRE_DOCKER=1 demands one for {len(with_containers)} tests")
    for item in with_containers:
        item.add_marker(pytest.mark.skip(reason=reason))
