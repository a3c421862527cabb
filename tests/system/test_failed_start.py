"""A start that fails and is tried again."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import grpc
import pytest

from skills import skills_pb2, skills_pb2_grpc
from skills.runtime import serving
from tests.servers import ROOT, SERVER, TINY, free_port

REQUEST = skills_pb2.GenReq(prompt="Say hello.", temperature=0, max_tokens=8)


def test_a_server_that_is_to_stay_says_why_it_cannot_serve_and_serves_once_it_can(tmp_path: Path) -> None:
    target, model = f"127.0.0.1:{free_port()}", tmp_path / "later.gguf"
    options = ["--listen", target, "--model", str(model), "--on-start-failure", "stay"]
    with (
        subprocess.Popen([sys.executable, *SERVER, *options], cwd=ROOT, stderr=subprocess.DEVNULL) as process,
        grpc.insecure_channel(target) as channel,
    ):
        try:
            stub = skills_pb2_grpc.SkillsServiceStub(channel)
            health = stub.Health(skills_pb2.HealthReq(), timeout=30, wait_for_ready=True)
            assert (health.status, str(model) in health.message) == ("NOT_SERVING", True)
            with pytest.raises(grpc.RpcError, match="later") as refused:
                stub.Generate(REQUEST, timeout=5)
            assert refused.value.code() == grpc.StatusCode.UNAVAILABLE
            shutil.copy(TINY, tmp_path / "partial")
            (tmp_path / "partial").rename(model)
            until_s = time.monotonic() + 3 * serving.RELOAD_DELAY_S[1]
            while stub.Health(skills_pb2.HealthReq(), timeout=5).status != "SERVING":
                assert time.monotonic() < until_s
                time.sleep(0.1)
            assert stub.Generate(REQUEST, timeout=10).text == "hello"
            assert stub.Health(skills_pb2.HealthReq(), timeout=5).message == ""
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 0
        finally:
            process.kill()
