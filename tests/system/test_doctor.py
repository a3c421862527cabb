"""`sarai doctor` on this machine, from which tests remove things on purpose."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.model_hub import running_hub
from tests.servers import ROOT, free_port
from tests.stub_skill import StubSkill

PLUGIN = """
from core.hookspecs import hookimpl
from tests.stub_plugin import stub_spec

@hookimpl
def sarai_skills():
    return [stub_spec("tiny", port={port}, catalog="tiny_catalog/catalog.toml")]
"""


@pytest.fixture
def port(tmp_path: Path) -> int:
    """Install a skill `tiny` with a catalogue; return its port."""
    with running_hub(b"GGUF") as hub:
        hub.install(tmp_path)
    port = free_port()
    (tmp_path / "tiny_plugin.py").write_text(PLUGIN.format(port=port))
    (tmp_path / "models").mkdir()
    return port


def doctor(folder: Path, *before: str, **environ: str) -> dict[str, list[Mapping[str, Any]]]:
    """Run it; return its findings by what it examined, after checking its exit code."""
    path = os.pathsep.join([str(folder), *filter(None, sys.path)])
    done = subprocess.run(
        [*before, sys.executable, "-m", "sarai", "doctor", "--json"], cwd=ROOT, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": path, "SKILL_TINY_MODELS_DIR": str(folder / "models")} | environ, check=False,
    )  # fmt: skip
    found: dict[str, list[Mapping[str, Any]]] = {}
    for line in done.stdout.splitlines():
        finding = json.loads(line)
        assert bool(finding["repair"]) == (finding["state"] != "ok")
        found.setdefault(finding["what"], []).append(finding)
    states = {finding["state"] for findings in found.values() for finding in findings}
    assert done.returncode == (1 if "missing" in states else 0), done.stderr
    assert "Traceback" not in done.stderr
    return found


@pytest.mark.usefixtures("port")
def test_it_looks_at_everything_and_names_the_command_that_fetches_a_model(tmp_path: Path) -> None:
    found = doctor(tmp_path)
    assert {"cpu", "cores", "memory", "bandwidth", "containers", "models", "port"} <= set(found)
    assert "sarai models pull tiny" in [finding["repair"] for finding in found["models"]]
    (tmp_path / "models" / "Tiny-Q8_0.publisher.gguf").write_bytes(b"GGUF")
    assert "tiny: tiny" in [finding["text"] for finding in doctor(tmp_path)["models"]]


def test_it_says_who_has_the_port_of_a_skill(port: int, tmp_path: Path) -> None:
    def said() -> Mapping[str, Any]:
        return next(finding for finding in doctor(tmp_path)["port"] if f":{port} " in finding["text"] + " ")

    assert said()["text"].endswith("is free for tiny")
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()
        assert said()["state"] == "missing"
        assert f"sport = :{port}" in said()["repair"]
    with StubSkill(listen=f"127.0.0.1:{port}"):
        assert said()["text"] == f"tiny serves at 127.0.0.1:{port}"


@pytest.mark.usefixtures("port")
def test_it_says_what_is_slow_or_not_installed(tmp_path: Path) -> None:
    taskset = shutil.which("taskset")
    assert taskset is not None
    found = doctor(tmp_path, taskset, "-c", str(min(os.sched_getaffinity(0))), PATH=str(tmp_path))
    assert [finding["state"] for finding in found["cores"]] == ["slow"]
    assert [finding["state"] for finding in found["containers"]] == ["missing"]
    assert "sarai serve" in found["containers"][0]["text"]
