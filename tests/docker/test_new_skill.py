"""The guide's commands with containers, run as written, on a fresh clone."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path

import pytest

from tests.docker.asking import MARKS
from tests.servers import ROOT
from tests.source_tree import blocks, make_environment, sections, typed

pytestmark = MARKS


def test_new_skill_comes_up_in_a_container_and_goes(clone: Path) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", 50071))
        except OSError:
            pytest.skip("a server is on port 50071; this test would publish it")
    make_environment(clone)
    parts = sections(ROOT / "docs" / "first_skill.md")
    typed(blocks(parts["Write it"], "sh")[0], clone)
    try:
        said = typed(blocks(parts["In a container"], "sh")[0], clone, timeout_s=280)
    finally:
        typed(".venv/bin/sarai down -q shout", clone)
        subprocess.run(["docker", "rmi", "sarai-skill-shout:v0.1"], capture_output=True, check=False)
    assert "HELLO" in said
    assert "serving" in said
