"""Limits that change while a server runs, as with `docker update`: in a folder that takes the place of its cgroup."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from skills import skills_pb2
from skills.runtime.testing import served
from skills.skill_image import image_pb2_grpc
from skills.skill_image.plugin import sarai_skills
from tests.own_cgroup import write_limits
from tests.servers import DraftServer, draft_server

GIB = 1 << 30
MODULE = ("-m", "tests.own_cgroup", "serve")


@contextlib.contextmanager
def server_of(folder: Path, *options: str, cpus: float) -> Iterator[DraftServer]:
    write_limits(folder, cpus=cpus, memory_bytes=GIB)
    with draft_server(folder, *options, module=MODULE, environment={"OWN_CGROUP": str(folder)}) as server:
        yield server


def soon(holds: Callable[[], bool], server: DraftServer, *, within_s: float = 10.0) -> None:
    end = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < end, f"{server.health()}\n{server.log.read_text()}"
        time.sleep(0.02)


def num_tasks(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/task"))  # noqa: PTH208  # only their number


def count(server: DraftServer) -> str:
    request = skills_pb2.GenReq(prompt="Count to twenty.", temperature=0, max_tokens=64)
    return server.stub.Generate(request, timeout=30).text


def test_more_and_fewer_cpus_are_used_by_the_running_engine_and_the_log_says_so(tmp_path: Path) -> None:
    with server_of(tmp_path, cpus=1) as server:
        answer, engine = count(server), server.engine_pid()
        soon(lambda: server.health().threads == 1, server)
        alone = num_tasks(engine)
        write_limits(tmp_path, cpus=3, memory_bytes=GIB)
        soon(lambda: server.health().threads == 3, server)
        assert count(server) == answer, "the number of threads does not change the bits"
        assert num_tasks(engine) == alone + 2, "llama.cpp computes with two more threads"
        write_limits(tmp_path, cpus=2, memory_bytes=GIB)
        soon(lambda: server.health().threads <= 2, server)
        assert count(server) == answer
        assert server.engine_pid() == engine
        log = server.log.read_text()
        assert "3 CPUs and 1,024 MB, before 1 CPUs" in log
        assert "uses up to 3 threads from now on" in log


def test_the_next_engine_has_the_new_number_too(tmp_path: Path) -> None:
    with server_of(tmp_path, cpus=1) as server:
        write_limits(tmp_path, cpus=2, memory_bytes=GIB)
        soon(lambda: server.health().threads == 2, server)
        os.kill(server.engine_pid(), signal.SIGKILL)
        soon(lambda: server.health().engine.restarts == 1 and server.health().status == "SERVING", server)
        soon(lambda: server.health().threads > 0, server)
        assert server.health().threads == 2


def test_a_number_that_was_set_is_kept_and_the_log_says_so(tmp_path: Path) -> None:
    with server_of(tmp_path, "--threads", "1", cpus=1) as server:
        write_limits(tmp_path, cpus=3, memory_bytes=GIB)
        soon(lambda: "SKILL_DRAFT_THREADS keeps the engine at 1 threads" in server.log.read_text(), server)
        count(server)
        assert server.health().threads == 1


def test_each_engine_is_sized_by_the_memory_limit_of_its_own_time(tmp_path: Path) -> None:
    with server_of(tmp_path, cpus=1) as server:
        write_limits(tmp_path, cpus=1, memory_bytes=4096)
        soon(lambda: "the next engine will be sized for the new memory limit" in server.log.read_text(), server)
        assert count(server), "the running engine continues"
        os.kill(server.engine_pid(), signal.SIGKILL)
        soon(lambda: server.health().status == "NOT_SERVING", server)
        with pytest.raises(grpc.RpcError, match="memory"):
            count(server)
        write_limits(tmp_path, cpus=1, memory_bytes=2 * GIB)
        soon(lambda: server.health().status == "SERVING", server, within_s=30)
        assert count(server)


def test_a_siblings_workers_follow_the_cpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OWN_CGROUP", str(tmp_path))
    write_limits(tmp_path, cpus=1, memory_bytes=GIB)
    spec = dataclasses.replace(sarai_skills()[0], serve=("-m", "tests.own_cgroup", "image"))
    with served(spec) as channel:
        stub = image_pb2_grpc.ImageServiceStub(channel)
        assert stub.Health(skills_pb2.HealthReq()).threads == 1
        write_limits(tmp_path, cpus=3, memory_bytes=GIB)
        end = time.monotonic() + 10
        while stub.Health(skills_pb2.HealthReq()).threads != 3:
            assert time.monotonic() < end
            time.sleep(0.02)
