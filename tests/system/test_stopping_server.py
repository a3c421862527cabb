"""Calls at a server that is shutting down."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import grpc
import pytest

from core.config import PoolConfig
from core.pool.client import SkillClient
from skills import skills_pb2
from skills.skill_draft.plugin import sarai_skills
from tests.servers import ROOT, draft_server

REQUEST = skills_pb2.GenReq(prompt="Say hello.", temperature=0, max_tokens=8)


def test_a_call_at_the_last_moment_is_unavailable_never_cancelled(tmp_path: Path) -> None:
    with draft_server(tmp_path, "--n-ctx", "1024", "--threads", "1") as server:
        ends: list[grpc.StatusCode] = []

        def ask_until_it_fails() -> None:
            config = PoolConfig(recovery_s=0.0)
            with SkillClient.at(sarai_skills()[0], server.target, config) as client:
                try:
                    while True:
                        client.Generate(REQUEST, timeout=20)
                except grpc.RpcError as error:
                    ends.append(error.code())

        callers = [threading.Thread(target=ask_until_it_fails, daemon=True) for _ in range(8)]
        for caller in callers:
            caller.start()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(20) == 0
        for caller in callers:
            caller.join(30)
        assert ends == [grpc.StatusCode.UNAVAILABLE] * 8, "also if gRPC loses the status of a call (core/rpc)"


@pytest.mark.parametrize(
    ("dockerfile", "arguments"),
    [
        ("skills/skill_draft/Dockerfile", "--listen unix:{folder}/draft"),
        ("skills/skill_image/Dockerfile", "--listen unix:{folder}/image"),
        ("core/cli/new_skill_template/Dockerfile.template", "--listen unix:{folder}/new"),
        ("deploy/scaler/Dockerfile", "draft --serve 127.0.0.1:0 --target unix:{folder}/draft"),
    ],
)
def test_an_image_that_is_told_to_stop_before_its_server_can_hear_ends_as_after_a_drain(
    dockerfile: str, arguments: str, tmp_path: Path
) -> None:
    # The signal comes before the first line of the server; were it not blocked, it would end this process by -15.
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal\nif os.environ.pop('STOP_AT_ONCE', ''):\n    os.kill(os.getpid(), signal.SIGTERM)\n"
    )
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}", "STOP_AT_ONCE": "1"}
    text = (ROOT / dockerfile).read_text().replace("§name", "image")  # a new skill's server is like any other
    (entry,) = re.findall(r"^ENTRYPOINT (.*)$", text, re.MULTILINE)
    command = [sys.executable if word == "python3" else word for word in json.loads(entry)]
    command += arguments.format(folder=tmp_path).split()
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
