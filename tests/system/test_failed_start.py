"""A start that fails and is retried."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from skills import skills_pb2, skills_pb2_grpc
from skills.runtime import serving
from tests.servers import ROOT, SOON, TINY, free_port

SIBLING = """
import sys
from pathlib import Path
from skills.runtime import serving
from skills.runtime.skill import StartError
from skills.runtime.text_skill import serve_text

class Shout:
    def __init__(self):
        if not Path({needed!r}).exists():
            raise StartError("the file is missing")

    def __call__(self, request):
        return request.prompt.upper()

serving.RELOAD_DELAY_S = (0.2,)
sys.exit(serve_text("shout", Shout, port=0, version="1"))
"""
IMPATIENT = """
import sys
from skills.runtime import serving
from skills.skill_draft.server import main

serving.RELOAD_DELAY_S = (1.0,)
sys.exit(main(sys.argv[1:]))
"""
ALL, SERVING = health_pb2.HealthCheckRequest(), health_pb2.HealthCheckResponse.SERVING
REQUEST = skills_pb2.GenReq(prompt="Say hello.", temperature=0, max_tokens=8)


def unready(stub: skills_pb2_grpc.SkillsServiceStub) -> skills_pb2.HealthResp:
    """Return the health once the first attempt to load is over."""
    while (health := stub.Health(skills_pb2.HealthReq(), timeout=30, wait_for_ready=True)).status == "LOADING":
        time.sleep(0.05)
    return health


def test_a_server_that_is_to_stay_says_why_it_cannot_serve_and_serves_once_it_can(tmp_path: Path) -> None:
    target, model = f"127.0.0.1:{free_port()}", tmp_path / "later.gguf"
    options = ["-c", IMPATIENT, "--listen", target, "--model", str(model), "--on-start-failure", "stay"]
    with (
        subprocess.Popen([sys.executable, *options], cwd=ROOT, stderr=subprocess.DEVNULL) as process,
        grpc.insecure_channel(target, SOON) as channel,
    ):
        try:
            stub = skills_pb2_grpc.SkillsServiceStub(channel)
            health = unready(stub)
            assert (health.status, str(model) in health.message) == ("NOT_SERVING", True)
            # An orchestrator that asks whether it lives leaves it alone.
            alive = health_pb2.HealthCheckRequest(service=serving.LIVE)
            assert health_pb2_grpc.HealthStub(channel).Check(alive, timeout=5).status == SERVING
            with pytest.raises(grpc.RpcError, match="later") as refused:
                stub.Generate(REQUEST, timeout=5)
            assert refused.value.code() == grpc.StatusCode.UNAVAILABLE
            shutil.copy(TINY, tmp_path / "partial")
            (tmp_path / "partial").rename(model)
            until_s = time.monotonic() + 20
            while stub.Health(skills_pb2.HealthReq(), timeout=5).status != "SERVING":
                assert time.monotonic() < until_s
                time.sleep(0.1)
            assert stub.Generate(REQUEST, timeout=10).text == "hello"
            assert stub.Health(skills_pb2.HealthReq(), timeout=5).message == ""
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 0
        finally:
            process.kill()


def test_a_sibling_that_is_to_stay_gives_the_same_reason_and_its_metrics_agree_with_health(tmp_path: Path) -> None:
    needed, target, metrics = tmp_path / "needed", f"unix:{tmp_path}/s.sock", f"127.0.0.1:{free_port()}"
    command = [sys.executable, "-c", SIBLING.format(needed=str(needed)), "--listen", target, "--metrics", metrics]
    with (
        subprocess.Popen([*command, "--on-start-failure", "stay"], cwd=ROOT, stderr=subprocess.DEVNULL) as process,
        grpc.insecure_channel(target, SOON) as channel,
    ):
        try:
            stub = skills_pb2_grpc.SkillsServiceStub(channel)
            health = unready(stub)
            assert (health.status, health.message) == ("NOT_SERVING", "the file is missing")
            with pytest.raises(grpc.RpcError, match="the file is missing") as refused:
                stub.Generate(REQUEST, timeout=5)
            assert refused.value.code() == grpc.StatusCode.UNAVAILABLE
            trailers: Any = refused.value.trailing_metadata()
            assert b"ENGINE_GONE" in dict(trailers)["grpc-status-details-bin"]
            needed.touch()
            assert SERVING in (answer.status for answer in health_pb2_grpc.HealthStub(channel).Watch(ALL, timeout=10))
            assert stub.Generate(REQUEST, timeout=5).text == "SAY HELLO."
            with urllib.request.urlopen(f"http://{metrics}/metrics", timeout=5) as page:
                lines = page.read().decode().splitlines()
            assert "sarai_shout_requests_total 1.0" in lines
            assert "gen_ai_server_request_duration_seconds_count 1.0" in lines
        finally:
            process.kill()
