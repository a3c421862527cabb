"""Processes that die, are stopped or lack memory: callers get their answers, or a clear error."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import grpc
import pytest

from core.local.compose import docker, inspect
from core.pool.client import SkillClient
from core.testing import SkillContainers
from skills import skills_pb2
from tests.docker.asking import (
    CALL_S,
    COUNTED,
    MARKS,
    OwnTiny,
    build_scaler,
    code_of,
    endless,
    exhaust_memory,
    greedy,
    in_background,
    threads,
    tiny_service,  # fmt: skip
)

pytestmark = MARKS


def test_a_client_that_waits_through_a_restart_gets_its_answer(own_tiny: OwnTiny) -> None:
    with own_tiny() as (client, container), threads(2) as pool:
        assert client.Generate(greedy(), timeout=CALL_S).text == COUNTED
        over = threading.Event()
        answers: list[str] = []

        def ask() -> None:
            while not over.is_set():
                answers.append(client.Generate(greedy(), timeout=CALL_S).text)

        asking = [pool.submit(ask) for _ in range(2)]
        container.docker("restart", "-t", "60", timeout_s=CALL_S)
        container.wait_serving()
        over.set()
        for each in asking:
            each.result(CALL_S)
        assert set(answers) == {COUNTED}


def test_kill_9_of_the_engine_inside_makes_streams_pause_and_go_on(own_tiny: OwnTiny) -> None:
    with own_tiny() as (client, container):
        undisturbed = client.Generate(endless(), timeout=CALL_S)
        engine = container.exec("cat", "/proc/1/task/1/children").split()[0]
        # An exec takes as long as the whole answer, so the engine is stopped, until one exec lets it write for a moment
        # and kills it.
        container.exec("bash", "-c", f"kill -STOP {engine}")
        stream = client.GenerateStream(endless(), timeout=CALL_S)
        container.exec("bash", "-c", f"kill -CONT {engine}; sleep 0.05; kill -9 {engine}")
        *pieces, last = stream
        assert last.result.text == undisturbed.text
        assert "".join(piece.text for piece in pieces) == undisturbed.text
        container.wait_serving()
        assert client.Health().engine.restarts == 1
        assert container.inspect().restarts == 0, "the container was restarted"


def test_kill_9_of_the_container_under_load_leaves_no_call_hanging(own_tiny: OwnTiny) -> None:
    with own_tiny() as (client, container), threads(8) as pool:
        undisturbed = client.Generate(endless(), timeout=CALL_S).text

        def unary() -> str:
            return client.Generate(endless(), timeout=CALL_S).text

        def streamed() -> str:
            return "".join(piece.text for piece in client.GenerateStream(endless(), timeout=CALL_S))

        calls = [pool.submit(each) for each in (unary, streamed) for _ in range(4)]
        wait_for_active(client, 8)
        container.kill_9()
        for call in calls:
            if (error := call.exception(2 * CALL_S)) is None:
                assert call.result() == undisturbed
            else:
                assert code_of(error) == grpc.StatusCode.UNAVAILABLE
        # The same client works after the restart policy has restarted the container.
        assert client.Generate(greedy(), timeout=CALL_S).text == COUNTED
        assert container.inspect().restarts == 1


def test_sigterm_lets_running_answers_finish(own_tiny: OwnTiny) -> None:
    with own_tiny() as (client, container), threads(3) as pool:
        calls = [pool.submit(client.Generate, endless(), timeout=CALL_S) for _ in range(3)]
        wait_for_active(client, 3)
        with in_background(["docker", "stop", "-t", "120", container.id]) as stopping:
            assert [call.result(CALL_S).tokens_generated for call in calls] == [900] * 3
            assert stopping.wait(CALL_S) == 0
        after = container.inspect()
        assert (after.state, after.exit_code) == ("exited", 0)
        assert "drained" in container.logs()


@pytest.mark.parametrize("name", ["draft", "image", "scaler"])
def test_a_container_that_is_stopped_when_it_has_only_begun_to_start_ends_as_soon_as_it_can(
    name: str, skill_container: SkillContainers, tmp_path: Path
) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "sitecustomize.py").write_text("print('starting', flush=True)\n__import__('time').sleep(3)\n")
    if name == "scaler":
        told = [build_scaler(), "draft", "--serve=127.0.0.1:0", "--target=draft:50051"]
    else:
        told = [skill_container.build(name).image]
    slow = "PYTHONPATH=/slow:/opt/sarai/app:/opt/sarai/packages:/opt/sarai/model"
    id_ = docker("run", "--detach", "--volume", f"{tmp_path}:/slow:ro", "--env", slow, *told).strip()
    try:
        until_s = time.monotonic() + CALL_S
        while "starting" not in docker("logs", id_):
            assert time.monotonic() < until_s
        docker("stop", "-t", "20", id_)
        (stopped,) = inspect([id_])
        assert (stopped.state, stopped.exit_code) == ("exited", 0), "137: it was killed"
    finally:
        docker("rm", "--force", "--volumes", id_)


def test_too_little_memory_for_the_context_is_said_and_does_not_restart_for_ever(
    skill_container: SkillContainers,
) -> None:
    little = {**tiny_service(), "mem_limit": "300m", "memswap_limit": "300m"}
    little["volumes"] = []  # the embedded model
    ample = ["--memory", "1g", "--memory-swap", "1g"]
    settings = {"SKILL_DRAFT_N_CTX": "8192"}
    with skill_container.own("draft", environment=settings, service=little, ready=False) as (client, container):
        container.wait_health("unhealthy")  # which it may be before the model was tried
        until_s = time.monotonic() + CALL_S
        while "lower SKILL_DRAFT_N_CTX" not in container.logs():
            assert time.monotonic() < until_s, container.logs()
            time.sleep(0.2)
        health = client.Health(timeout=10)
        assert health.status == "NOT_SERVING"
        assert "give the container more memory" in health.message
        with pytest.raises(grpc.RpcError, match="give the container more memory") as refused:
            client.Generate(greedy(), timeout=5)
        assert code_of(refused.value) in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
        assert (container.inspect().state, container.inspect().restarts) == ("running", 0)
        container.docker("update", *ample)
        container.wait_serving()
        assert client.Generate(greedy("Hello", max_tokens=4), timeout=CALL_S).text


def test_when_memory_ends_the_kernel_takes_the_engine_and_callers_see_a_pause(own_tiny: OwnTiny) -> None:
    little: dict[str, object] = {"mem_limit": "400m", "memswap_limit": "400m"}
    with own_tiny(service=little) as (client, container):
        undisturbed = client.Generate(endless(), timeout=CALL_S).text
        stream = client.GenerateStream(endless(), timeout=CALL_S)
        pieces = [next(stream).text for _ in range(5)]
        exhaust_memory(container)
        assert "".join([*pieces, *(piece.text for piece in stream)]) == undisturbed
        assert "out of memory: the limit is 400 MB" in container.logs()
        assert client.Health().engine.restarts >= 1
        assert (container.inspect().state, container.inspect().restarts) == ("running", 0)


def wait_for_active(client: SkillClient, number: int) -> skills_pb2.HealthResp:
    """Wait until `number` requests run."""
    until_s = time.monotonic() + CALL_S
    while (health := client.Health(timeout=30)).active_requests < number:
        assert time.monotonic() < until_s, health
    return health
