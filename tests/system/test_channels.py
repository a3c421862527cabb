from __future__ import annotations

import subprocess
import sys

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from core.rpc import CHANNEL_OPTIONS, grpc
from skills import skills_pb2
from tests.fault_proxy import FaultProxy
from tests.servers import ROOT
from tests.stub_plugin import client_of
from tests.stub_skill import StubSkill

REQUEST = skills_pb2.GenReq(prompt="x")


def test_keepalive_is_no_closer_than_servers_allow() -> None:
    assert dict(CHANNEL_OPTIONS)["grpc.keepalive_time_ms"] > 300_000  # type: ignore[operator]


def test_a_server_that_answers_no_ping_is_given_up_though_its_kernel_takes_the_bytes() -> None:
    own = dict(CHANNEL_OPTIONS)
    own |= {"grpc.keepalive_time_ms": 1_000, "grpc.http2.ping_timeout_ms": int(own["grpc.http2.ping_timeout_ms"]) // 10}
    with (
        StubSkill("yes") as skill,
        FaultProxy(skill.target) as proxy,
        grpc.insecure_channel(proxy.target, options=[*own.items()]) as channel,
    ):
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=20)
        next(watch)
        proxy.stall()
        with pytest.raises(grpc.RpcError) as ended:
            next(watch)
        assert ended.value.code() == grpc.StatusCode.UNAVAILABLE


def test_answer_of_ten_megabytes_arrives() -> None:
    text = "x" * 5_000_000  # twice in an answer: as its text and as its first candidate's
    with StubSkill(text) as skill, client_of(skill.target) as client:
        assert len(client.Generate(REQUEST, timeout=20).text) == len(text)


@pytest.mark.parametrize("variable", ["http_proxy", "grpc_proxy", "https_proxy"])
def test_proxy_for_the_web_is_not_used(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "http://127.0.0.1:9")
    with StubSkill("yes") as skill, client_of(skill.target) as client:
        assert client.Generate(REQUEST, timeout=5).text == "yes"


NOISY = """
import core.model_pool
from core.errors import CallError
from skills import skills_pb2
from tests.stub_plugin import client_of
from tests.stub_skill import Reply, StubSkill
skill = StubSkill(Reply(text="a b", chunk_delay_s=30)).start()
stream = client_of(skill.target).GenerateStream(skills_pb2.GenReq(prompt="x", hard_deadline=True), timeout=1)
next(stream)
skill.stop()
try:
    next(stream)
except CallError as error:
    print("broken")
"""


def test_grpc_writes_nothing_into_the_users_terminal() -> None:
    run = subprocess.run([sys.executable, "-c", NOISY], cwd=ROOT, capture_output=True, text=True, check=True)
    assert (run.stdout, run.stderr) == ("broken\n", "")
