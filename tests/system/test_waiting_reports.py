"""Callers tell an autoscaler of calls that no replica sees, and wait until it has brought one."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from core.config import PoolConfig
from core.local.progress import Absent, Progress
from core.model_pool import ModelPool
from core.plugins import Plugins
from core.pool.reports import WaitingReports
from core.scaling.scaler_pb2_grpc import add_ScalerServiceServicer_to_server
from core.scaling.waiting import ScalerServicer, Waiting, WaitingCalls
from skills import skills_pb2
from tests.stub_plugin import PluginTree, free_port, stub_spec
from tests.stub_skill import StubSkill

REQUEST = skills_pb2.GenReq(prompt="x")


def wait_for(holds: Callable[[], bool]) -> float:
    begin = time.monotonic()
    while not holds():
        assert time.monotonic() < begin + 20
        time.sleep(0.01)
    return time.monotonic() - begin


def plugins(folder: Path, port: int) -> Plugins:
    tree = PluginTree(folder)
    tree.write_stub("echo", port=port)
    return tree.load()


@pytest.fixture
def scaler() -> Iterator[tuple[str, WaitingCalls]]:
    """Run an autoscaler's ear."""
    calls = WaitingCalls()
    server = grpc.server(ThreadPoolExecutor(4))
    add_ScalerServiceServicer_to_server(ScalerServicer("echo", calls), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}", calls
    server.stop(None)


@pytest.mark.parametrize("by", ["ports", "target"])
def test_calls_wait_for_the_replicas_that_an_autoscaler_brings(
    by: str, scaler: tuple[str, WaitingCalls], tmp_path: Path
) -> None:
    ear, calls = scaler
    spec = stub_spec(port=free_port())
    targets = {spec.target_variable: f"127.0.0.1:{spec.port}"} if by == "target" else {}
    config = PoolConfig(scalers={spec.scaler_variable: ear}, targets=targets)
    told: list[Progress] = []
    known = plugins(tmp_path, spec.port)
    with ModelPool(config, plugins=known, on_progress=told.append) as pool, ThreadPoolExecutor(3) as threads:
        client = pool.get_skill_client("echo")
        assert told == ([Absent(skill="echo", scaler=ear)] if by == "ports" else [])
        answers = [threads.submit(client.Generate, REQUEST, 20) for _ in range(3)]
        assert wait_for(lambda: calls.total() == Waiting(3)) < 2
        time.sleep(2)  # longer than a call waits for replicas that have never answered
        with StubSkill(listen=f"127.0.0.1:{spec.port}"):
            assert [answer.result().text for answer in answers] == ["echo: x"] * 3
        wait_for(lambda: calls.total() == Waiting())


def test_calls_wait_as_ever_while_the_autoscaler_says_nothing(tmp_path: Path) -> None:
    spec = stub_spec(port=free_port())
    with socket.create_server(("127.0.0.1", 0)) as mute:  # accepts connections, and never reads
        config = PoolConfig(scalers={spec.scaler_variable: f"127.0.0.1:{mute.getsockname()[1]}"})
        with ModelPool(config, plugins=plugins(tmp_path, spec.port)) as pool, ThreadPoolExecutor(1) as threads:
            answer = threads.submit(pool.get_skill_client("echo").Generate, REQUEST, 20)
            connection, _ = mute.accept()
            with connection, StubSkill(listen=f"127.0.0.1:{spec.port}"):
                assert answer.result().text == "echo: x"


def test_calls_wait_unreported_where_no_thread_can_be_started(
    scaler: tuple[str, WaitingCalls], monkeypatch: pytest.MonkeyPatch
) -> None:
    ear, calls = scaler
    reports = WaitingReports(stub_spec(), ear)

    def no_more_threads(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_more_threads)
        reports.note(1)
    reports.note(2)
    wait_for(lambda: calls.total() == Waiting(2))
    reports.note(0)
    wait_for(lambda: calls.total() == Waiting())


def test_the_first_call_that_waits_is_news_and_further_ones_are_not() -> None:
    news: list[int] = []
    calls = WaitingCalls(lambda: news.append(calls.total().calls))
    for caller, number in (("a", 1), ("a", 3), ("b", 1), ("a", 0), ("b", 0), ("b", 2)):
        calls.report(caller, Waiting(number))
    assert news == [1, 2]


def test_an_autoscaler_that_is_not_there_costs_nothing(tmp_path: Path) -> None:
    spec = stub_spec(port=free_port())
    with StubSkill(listen=f"127.0.0.1:{spec.port}"):
        config = PoolConfig(scalers={spec.scaler_variable: f"127.0.0.1:{free_port()}"})
        with ModelPool(config, plugins=plugins(tmp_path, spec.port)) as pool:
            assert pool.get_skill_client("echo").Generate(REQUEST, timeout=5).text == "echo: x"
