"""Replicas as local processes come and go with the work; every call is answered, and with the same bits."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from core.config import PoolConfig
from core.local.numbered import NumberedServers
from core.model_pool import ModelPool
from core.plugins import get_plugins
from core.scaling import policy
from core.scaling.local import LocalReplicas
from core.scaling.replicas import Running
from core.scaling.samples import Limits
from core.scaling.scaler import Scaler, Step
from skills import skills_pb2, types_pb2
from tests.servers import ROOT, TINY

COMPUTED = types_pb2.CacheControl(mode=types_pb2.CACHE_MODE_BYPASS)
TEXT = "The rain in Spain stays mainly in the plain. " * 40
SARAI = (sys.executable, "-m", "sarai")
COMMAND = (*SARAI, "autoscale", "draft")


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Give this test servers of its own, and end them."""
    monkeypatch.chdir(ROOT)
    # What pytest and other tests have added would make this process's servers others than the command's.
    fresh = subprocess.run(
        [sys.executable, "-c", "import sys; print(*sys.path[1:], sep='\\n')"],
        capture_output=True,
        text=True,
        check=True,
    )
    monkeypatch.setattr(sys, "path", [str(ROOT), *fresh.stdout.splitlines()])
    folder = tempfile.mkdtemp(prefix="sarai-test-", dir="/tmp")
    monkeypatch.setattr(tempfile, "tempdir", folder)
    for name, value in {
        "TMPDIR": folder, "XDG_STATE_HOME": str(tmp_path), "SKILL_DRAFT_MODEL": str(TINY), "SKILL_DRAFT_SLOTS": "2",
        "SARAI_LOG_DIR": str(tmp_path / "logs"),
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    yield
    for process in servers():
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def servers() -> list[psutil.Process]:
    """Return the servers on this test's sockets."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        line = process.info["cmdline"] or []
        if "skills.skill_draft.server" in line and f"unix:{tempfile.gettempdir()}/" in " ".join(line):
            found.append(process)
    return found


def wait_for(holds: Callable[[], bool], timeout_s: float = 60) -> float:
    begin = time.monotonic()
    while not holds():
        assert time.monotonic() < begin + timeout_s
        time.sleep(0.02)
    return time.monotonic() - begin


class Callers:
    """Callers that ask one question after the other, and compare each answer with the first one to it."""

    def __init__(self, pool: ModelPool, number: int) -> None:
        self._client = pool.get_skill_client("draft")
        self._stop = threading.Event()
        self._first: dict[str, str] = {}
        self.answers, self.errors = 0, list[str]()
        self._threads = [threading.Thread(target=self._run, args=(n,)) for n in range(number)]
        for thread in self._threads:
            thread.start()

    def _run(self, number: int) -> None:
        while not self._stop.is_set():
            prompt = f"{number}{self.answers % 3}: {TEXT}"
            try:
                text = self._client.Generate(
                    skills_pb2.GenReq(prompt=prompt, max_tokens=24, temperature=0, raw=True, cache=COMPUTED), timeout=60
                ).text
            except Exception as error:  # noqa: BLE001 - whatever it is, the test fails
                self.errors.append(repr(error))
                return
            self.answers += 1
            if self._first.setdefault(prompt, text) != text:
                self.errors.append(f"{text!r} is not {self._first[prompt]!r}")

    def end(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        assert self.errors == []


def serving(pool: ModelPool) -> int:
    (status,) = (each for each in pool.status() if each.skill == "draft")
    return sum(replica.state == "serving" for replica in status.replicas)


@contextlib.contextmanager
def scaler(limits: Limits) -> Iterator[list[Step]]:
    config, spec = PoolConfig.from_env(), get_plugins().skill("draft")
    steps: list[Step] = []
    stop = threading.Event()
    scaler = Scaler(spec, config, LocalReplicas(spec, config), limits)
    thread = threading.Thread(target=scaler.run, args=(steps.append, stop.wait))
    thread.start()
    try:
        yield steps
    finally:
        stop.set()
        thread.join()


@pytest.mark.usefixtures("house")
def test_a_second_replica_comes_with_the_callers_and_goes_when_it_is_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "SHORTEST_HOLD_S": 3.0,
        "LONGEST_HOLD_S": 3.0,
        "FAST_S": 3.0,
        "SLOW_S": 5.0,
        "FULL_S": 0.0,
    }.items():
        monkeypatch.setattr(policy, name, value)
    affinity = os.sched_getaffinity(0)
    limits = Limits(low=1, high=2, cores=2, target_wait_s=0.1)
    with ModelPool() as pool, scaler(limits) as steps:
        callers = Callers(pool, 8)
        wait_for(lambda: len(servers()) == 2)
        there_s = wait_for(lambda: serving(pool) == 2)
        before = callers.answers
        wait_for(lambda: callers.answers > before + 40)
        shares = [set(process.cpu_affinity()) for process in servers()]
        assert not set.intersection(*shares) or len(affinity) == 1, "each has cores of its own"
        callers.end()
        wait_for(lambda: serving(pool) == 1 and len(servers()) == 1)
        assert there_s < 30
        wait_for(lambda: set(servers()[0].cpu_affinity()) == affinity)  # the last one has all of them again
    events = [step.event for step in steps if step.event != "hold"]
    assert (events[:2], events[-1]) == (["start", "start"], "drain")


@pytest.mark.usefixtures("house")
def test_what_a_scaler_started_that_was_killed_before_it_noted_the_process_can_be_drained() -> None:
    config, spec = PoolConfig.from_env(), get_plugins().skill("draft")
    first = LocalReplicas(spec, config)
    first.start(1)
    (replica,) = there(first, 1)
    first.close()
    for record in Path(tempfile.gettempdir()).glob("sarai-*/server.json"):
        record.write_text(json.dumps({**json.loads(record.read_text()), "pid": None}))
    second = LocalReplicas(spec, config)
    (adopted,) = there(second, 1)
    (process,) = servers()
    wait_for(lambda: second.replicas()[0].name == f"process {process.pid}")
    (same,) = second.replicas()
    assert (same.id, same.target) == (adopted.id, replica.target)
    second.drain(adopted.id)
    wait_for(lambda: second.replicas() == [] and second.draining == 0)
    assert servers() == []
    second.close()


@pytest.mark.usefixtures("house")
def test_a_server_that_hangs_is_killed_when_it_is_to_drain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SARAI_HEALTH_TIMEOUT_S", "1")
    replicas = LocalReplicas(get_plugins().skill("draft"), PoolConfig.from_env())
    replicas.start(1)
    there(replicas, 1)
    (process,) = servers()
    process.suspend()
    subprocess.run((*COMMAND, "--stop"), check=True, timeout=60)
    assert servers() == []
    replicas.close()


@pytest.mark.usefixtures("house")
def test_a_server_that_was_told_to_end_is_no_restart_for_the_program_that_starts_the_next_one() -> None:
    request = skills_pb2.GenReq(prompt="Hello", max_tokens=2, temperature=0, raw=True, cache=COMPUTED)
    replicas = LocalReplicas(get_plugins().skill("draft"), PoolConfig.from_env())
    with ModelPool() as pool:
        first = pool.get_skill_client("draft").Generate(request, timeout=60)
        (replica,) = there(replicas, 1)
        replicas.drain(replica.id)
        wait_for(lambda: replicas.replicas() == [] and replicas.draining == 0)
        assert pool.get_skill_client("draft").Generate(request, timeout=60).text == first.text
        (status,) = (each for each in pool.status() if each.skill == "draft")
        assert [each.restarts for each in status.replicas] == [0]
    replicas.close()


@pytest.mark.usefixtures("house")
def test_a_start_that_fails_in_any_way_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    replicas = LocalReplicas(get_plugins().skill("draft"), PoolConfig.from_env())
    replicas._cores = [100_000]  # taken away since
    replicas.start(1)
    wait_for(lambda: (replicas.starting, replicas.failed_starts) == (0, 1))
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_more_threads)
        replicas.start(1)
    assert (replicas.starting, replicas.failed_starts, replicas.replicas()) == (0, 2, [])
    replicas.close()


def no_more_threads(_: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def there(replicas: LocalReplicas, number: int) -> list[Running]:
    wait_for(lambda: (len(replicas.replicas()), replicas.starting) == (number, 0))
    return replicas.replicas()


@pytest.mark.usefixtures("house")
def test_a_killed_scaler_changes_nothing_and_the_next_one_adopts() -> None:
    numbered = NumberedServers(get_plugins().skill("draft"), PoolConfig.from_env())
    arguments = (*COMMAND, "--min", "2", "--max", "2", "--json")
    first = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
    try:
        wait_for(lambda: len(numbered.targets()) == 2 and numbered.running() == [0, 1])
        other = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=False)
        assert (other.returncode, str(first.pid) in other.stderr) == (2, True), "one scaler a user"
    finally:
        first.send_signal(signal.SIGKILL)
        told, _ = first.communicate()
    assert '"event": "start"' in told
    before = {process.pid for process in servers()}
    with ModelPool() as pool:
        callers = Callers(pool, 4)
        wait_for(lambda: serving(pool) == 2 and callers.answers > 20)
        second = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
        try:
            assert second.stdout is not None
            assert '"replicas": 2' in second.stdout.readline(), "it adopts both at its first look"
            for command in ("health", "skills", "cache stats", "cache clear --dry-run"):
                shown = subprocess.run(
                    (*SARAI, *command.split(), "--json"), capture_output=True, text=True, check=False
                )
                found = [json.loads(line).get("target") for line in shown.stdout.splitlines() if '"draft"' in line]
                assert found == [numbered.target(0), numbered.target(1)], command
            callers.end()
        finally:
            second.kill()
            second.communicate()
        assert {process.pid for process in servers()} == before
    assert {process.pid for process in servers()} == before, "they stay without users"
    subprocess.run((*COMMAND, "--stop"), check=True, timeout=60)
    assert servers() == []
