"""The scaler's server as KEDA, Prometheus and callers see it, with real draft servers."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from core.config import PoolConfig
from core.errors import ConfigError
from core.model_pool import ModelPool
from core.scaling import keda, listening, scaler_pb2, scaler_pb2_grpc
from core.scaling.looking import LOOK_EVERY_S
from core.scaling.samples import Decision, Limits
from core.scaling.server import ScalerServer
from core.scaling.vendored import externalscaler_pb2 as pb
from core.scaling.vendored import externalscaler_pb2_grpc
from skills import skills_pb2
from skills.skill_draft.plugin import sarai_skills
from tests import servers
from tests.servers import ROOT, draft_server, free_port

SPEC = sarai_skills()[0]
COMMAND = (sys.executable, "-m", "sarai", "autoscale", "draft")
OBJECT = pb.ScaledObjectRef(name="skill-draft", namespace="sarai", scalerMetadata={"skill": "draft"})


@dataclass
class Scaler:
    """A scaler's server, and its clients."""

    server: ScalerServer
    channel: grpc.Channel
    decisions: list[Decision]
    keda: externalscaler_pb2_grpc.ExternalScalerStub = field(init=False)

    def __post_init__(self) -> None:
        self.keda = externalscaler_pb2_grpc.ExternalScalerStub(self.channel)

    def wanted(self) -> int:
        """Return what KEDA is told."""
        request = pb.GetMetricsRequest(scaledObjectRef=OBJECT, metricName="wanted_replicas")
        (value,) = self.keda.GetMetrics(request, timeout=5).metricValues
        assert value.metricValueFloat == value.metricValue
        return value.metricValue

    def report(self, calls: int, **fields: Any) -> scaler_pb2.ReportWaitingResponse:
        """Tell it how many calls wait."""
        request = scaler_pb2.ReportWaitingRequest(**{"skill": "draft", "caller": "test", "calls": calls, **fields})
        return scaler_pb2_grpc.ScalerServiceStub(self.channel).ReportWaiting(request, timeout=5)


@contextlib.contextmanager
def scaler(*targets: str, low: int = 0, high: int = 4, metrics: str = "") -> Iterator[Scaler]:
    decisions: list[Decision] = []
    limits = Limits(low=low, high=high, target_wait_s=0.05)
    options: dict[str, Any] = {"listen": "127.0.0.1:0", "metrics": metrics, "on_decision": decisions.append}
    with (
        ScalerServer(SPEC, targets, limits, **options) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        found = Scaler(server, channel, decisions)
        soon(lambda: bool(decisions))
        yield found


def soon(holds: Callable[[], bool], within_s: float = 10.0) -> None:
    until_s = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < until_s
        time.sleep(0.02)


class Stream:
    """What StreamIsActive has said, and when."""

    def __init__(self, stub: externalscaler_pb2_grpc.ExternalScalerStub) -> None:
        self.said: list[tuple[float, bool]] = []
        self._stub, self._refused = stub, True
        self._call = stub.StreamIsActive(OBJECT)
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        while self._refused:
            self._refused = False
            try:
                for answer in self._call:
                    self.said.append((time.monotonic(), answer.result))
            except grpc.RpcError as error:
                self._refused = error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            if self._refused:  # KEDA tries again too
                time.sleep(0.05)
                self._call = self._stub.StreamIsActive(OBJECT)

    def cancel(self) -> None:
        self._call.cancel()


def test_the_first_call_at_zero_replicas_is_pushed_to_keda_at_once() -> None:
    with scaler(f"127.0.0.1:{free_port()}") as found:
        stream = Stream(found.keda)
        soon(lambda: len(stream.said) == 1)
        assert (stream.said[0][1], found.wanted()) == (False, 0)
        assert not found.keda.IsActive(OBJECT, timeout=5).result
        reported_s = time.monotonic()
        assert found.report(1).holds_s == 5
        soon(lambda: len(stream.said) == 2)
        told_s, active = stream.said[1]
        assert active
        assert told_s - reported_s < LOOK_EVERY_S / 2, "it must not wait for the next look"
        assert found.wanted() == 1
        assert found.keda.IsActive(OBJECT, timeout=5).result
        found.report(0)
        stream.cancel()


def test_a_call_at_zero_replicas_is_answered_by_the_one_that_keda_is_told_to_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = f"127.0.0.1:{(port := free_port())}"
    monkeypatch.setattr(servers, "free_port", lambda: port)
    with scaler(target) as found, ThreadPoolExecutor(1) as thread:
        stream = Stream(found.keda)
        soon(lambda: len(stream.said) == 1)
        settings: dict[str, Any] = {
            "targets": {"SARAI_DRAFT_TARGET": target},
            "scalers": {"SARAI_DRAFT_SCALER": found.server.address},
        }
        with ModelPool(PoolConfig.from_env({}, **settings)) as pool:
            request = skills_pb2.GenReq(prompt="Count to twenty.", temperature=0, max_tokens=64)
            call = thread.submit(pool.get_skill_client("draft").Generate, request, timeout=60)
            soon(lambda: stream.said[-1][1])
            with draft_server(tmp_path):  # what KEDA does then
                assert call.result(60).text.startswith("one two three")
        stream.cancel()


def test_streams_that_their_clients_leave_make_room_for_others() -> None:
    with scaler(f"127.0.0.1:{free_port()}") as found:
        for _ in range(3):
            streams = [Stream(found.keda) for _ in range(keda.MOST_STREAMS)]
            soon(lambda: all(stream.said for stream in streams))  # noqa: B023  # used within the round
            with pytest.raises(grpc.RpcError, match="24 streams are open") as refused:
                next(found.keda.StreamIsActive(OBJECT, timeout=5))
            assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert found.wanted() == 0, "streams must not take the threads of other calls"
            for stream in streams:
                stream.cancel()


_HOLDS_A_STREAM = """
import sys
import grpc
from core.scaling.vendored import externalscaler_pb2 as pb
from core.scaling.vendored import externalscaler_pb2_grpc
with grpc.insecure_channel(sys.argv[1]) as channel:
    for answer in externalscaler_pb2_grpc.ExternalScalerStub(channel).StreamIsActive(pb.ScaledObjectRef()):
        print(answer.result, flush=True)
"""


def test_a_client_that_vanishes_without_a_word_leaves_its_stream_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keda, "MOST_STREAMS", 1)
    monkeypatch.setattr(listening, "PING_MS", 1000)
    with scaler(f"127.0.0.1:{free_port()}") as found:
        command = [sys.executable, "-c", _HOLDS_A_STREAM, found.server.address]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as client:
            try:
                assert client.stdout is not None
                assert client.stdout.readline() == "False\n"
                client.send_signal(signal.SIGSTOP)  # as when its machine has died: the connection stays
                stream = Stream(found.keda)
                soon(lambda: bool(stream.said))
                stream.cancel()
            finally:
                client.kill()


def test_calls_without_bound_are_refused_and_not_queued(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "_MOST_CALLS", 4)
    with scaler(f"127.0.0.1:{free_port()}") as found:
        streams = [Stream(found.keda) for _ in range(4)]
        soon(lambda: all(stream.said for stream in streams))
        with pytest.raises(grpc.RpcError) as refused:
            found.report(1)
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        streams.pop().cancel()
        soon(lambda: reported(found))
        for stream in streams:
            stream.cancel()


def reported(found: Scaler) -> bool:
    with contextlib.suppress(grpc.RpcError):
        return bool(found.report(1).holds_s)
    return False


def test_the_number_follows_replicas_that_a_name_lists_and_their_load(tmp_path: Path) -> None:
    with draft_server(tmp_path) as server, scaler(f"dns:///localhost:{server.target.rpartition(':')[2]}") as found:
        soon(lambda: found.wanted() == 1)
        (spec,) = found.keda.GetMetricSpec(OBJECT, timeout=5).metricSpecs
        assert (spec.metricName, spec.targetSizeFloat) == ("wanted_replicas", 1.0)
        found.report(3)
        soon(lambda: found.wanted() == 3)
        assert "3 requests would wait" in found.decisions[-1].why
        found.report(50, caller="another")
        soon(lambda: found.wanted() == 4)
        # The replicas that it asked for count, though nobody started any yet: no more are wanted meanwhile.
        time.sleep(3 * LOOK_EVERY_S)
        assert found.wanted() == 4


def test_prompts_that_wait_at_a_replica_make_another_one_wanted(tmp_path: Path) -> None:
    with (
        draft_server(tmp_path, "--threads", "1") as server,
        scaler(server.target) as found,
        ThreadPoolExecutor(8) as pool,
    ):
        soon(lambda: found.wanted() == 1)
        over = threading.Event()

        def read_long_prompts(number: int) -> None:
            while not over.is_set():
                prompt = f"{number} {time.monotonic()} " + "a few words, never the same, " * 60
                server.stub.Generate(skills_pb2.GenReq(prompt=prompt, max_tokens=4), timeout=60)

        calls = [pool.submit(read_long_prompts, number) for number in range(8)]
        try:
            soon(lambda: found.wanted() > 1, 30)
            assert any("would wait more than 0.05 s" in each.why for each in found.decisions)
        finally:
            over.set()
        for call in calls:
            call.result(60)


def test_what_is_not_known_is_an_error_and_never_a_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    getaddrinfo = socket.getaddrinfo

    def no_name_server(host: Any, *arguments: Any, **options: Any) -> Any:
        if host == "skill-draft":
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return getaddrinfo(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", no_name_server)
    metrics = f"127.0.0.1:{free_port()}"
    options: dict[str, Any] = {"listen": "127.0.0.1:0", "metrics": metrics}
    with (
        ScalerServer(SPEC, ["dns:///skill-draft:50051"], Limits(), **options) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        found = Scaler(server, channel, [])
        for ask in (found.wanted, lambda: found.keda.IsActive(OBJECT, timeout=5)):
            with pytest.raises(grpc.RpcError) as refused:
                ask()
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        with urllib.request.urlopen(f"http://{metrics}/metrics", timeout=5) as page:
            assert b"sarai_wanted_replicas{" not in page.read()


def test_a_client_of_another_language_asks_by_kedas_own_contract(tmp_path: Path) -> None:
    shutil.copy(ROOT / "core" / "scaling" / "vendored" / "externalscaler.proto", tmp_path)
    buf = [str(Path(sys.executable).with_name("buf")), "curl", "--protocol", "grpc", "--http2-prior-knowledge"]
    request = ["--schema", str(tmp_path), "-d", '{"metricName": "wanted_replicas"}']
    with scaler(f"127.0.0.1:{free_port()}", low=3) as found:
        address = f"http://{found.server.address}/externalscaler.ExternalScaler/GetMetrics"
        done = subprocess.run([*buf, *request, address], capture_output=True, text=True, timeout=60, check=True)
    (value,) = json.loads(done.stdout)["metricValues"]
    assert (value["metricName"], value["metricValueFloat"]) == ("wanted_replicas", 3)


def test_prometheus_reads_the_same_number() -> None:
    metrics = f"127.0.0.1:{free_port()}"
    with scaler(f"127.0.0.1:{free_port()}", low=2, metrics=metrics) as found:
        assert found.wanted() == 2
        with urllib.request.urlopen(f"http://{metrics}/metrics", timeout=5) as page:
            assert 'sarai_wanted_replicas{skill="draft"} 2.0' in page.read().decode()
        health = health_pb2_grpc.HealthStub(found.channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
        assert health.status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize(
    ("fields", "code", "words"),
    [
        ({"skill": "image"}, grpc.StatusCode.NOT_FOUND, "for 'draft', not 'image'"),
        ({"caller": ""}, grpc.StatusCode.INVALID_ARGUMENT, "caller must have 1 to 128 bytes"),
        ({"caller": "x" * 129}, grpc.StatusCode.INVALID_ARGUMENT, "caller must have 1 to 128 bytes"),
        ({"calls": -1}, grpc.StatusCode.INVALID_ARGUMENT, "calls must be 0 or more"),
        ({"work_s": float("nan")}, grpc.StatusCode.INVALID_ARGUMENT, "work_s must be 0 to 1e+09"),
        ({"work_s": 1e308}, grpc.StatusCode.INVALID_ARGUMENT, "work_s must be 0 to 1e+09"),
    ],
)
def test_a_wrong_report_is_refused_by_its_field(fields: dict[str, Any], code: grpc.StatusCode, words: str) -> None:
    with scaler(f"127.0.0.1:{free_port()}") as found:
        with pytest.raises(grpc.RpcError) as refused:
            found.report(**{"calls": 1, **fields})
        assert (refused.value.code(), words in str(refused.value.details())) == (code, True)
        assert found.wanted() == 0


def test_an_address_that_is_taken_is_told() -> None:
    with scaler(f"127.0.0.1:{free_port()}") as found, pytest.raises(ConfigError, match="is it in use"):
        ScalerServer(SPEC, ["127.0.0.1:1"], Limits(), listen=found.server.address)


def test_the_command_serves_tells_each_decision_and_ends_at_sigterm() -> None:
    listen, target = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    options = ["--serve", listen, "--target", target, "--min", "0", "--max", "3", "--json"]
    with (
        subprocess.Popen([*COMMAND, *options], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process,
        grpc.insecure_channel(listen) as channel,
    ):
        try:
            assert process.stdout is not None
            assert json.loads(process.stdout.readline())["wanted"] == 0
            request = scaler_pb2.ReportWaitingRequest(skill="draft", caller="test", calls=2)
            scaler_pb2_grpc.ScalerServiceStub(channel).ReportWaiting(request, timeout=10, wait_for_ready=True)
            told = json.loads(process.stdout.readline())
            assert (told["event"], told["wanted"], "2 requests" in told["why"]) == ("wanted", 1, True)
            process.terminate()
            assert process.wait(10) == 0
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--serve", "127.0.0.1:0"], "--target, or SARAI_DRAFT_TARGET"),
        (["--metrics", "127.0.0.1:0"], "--target and --metrics go with --serve"),
        (["--serve", "127.0.0.1:0", "--target", "a:1", "--stop"], "it starts no replicas"),
        (["--serve", "127.0.0.1:0", "--target", "a:1", "--min", "2", "--max", "1"], "--min 2 is more than --max 1"),
    ],
)
def test_options_that_do_not_fit_are_refused_in_words(options: list[str], words: str) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SARAI_")}
    done = subprocess.run(
        [*COMMAND, *options], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, words in " ".join(done.stderr.split())) == (2, True), done.stderr
