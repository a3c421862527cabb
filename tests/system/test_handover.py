"""A replica that shuts down ends its running calls before its grace period ends; answers continue elsewhere."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from skills import skills_pb2, skills_pb2_grpc
from skills.runtime.pieces import HOLD_S
from skills.wire import FEW_PIECES
from tests.answers import candidates_of, whole
from tests.servers import ROOT, SERVER, SOON, TINY, DraftServer, draft_server

GenReq = skills_pb2.GenReq
SETTINGS = ("--n-ctx", "1024", "--threads", "1")
HOT: dict[str, Any] = {"temperature": 4, "top_k": 0, "top_p": 1, "min_p": 0}
LETTERS = "root ::= [a-z ] root"
# Each is long enough to be still running when its replica shuts down: such a grammar never lets an answer end.
REQUESTS = {
    "greedy": GenReq(prompt="Count to twenty.", temperature=0, max_tokens=600, grammar=LETTERS),
    "seeded": GenReq(prompt="Who are you?", seed=7, temperature=0.9, top_k=0, max_tokens=600, grammar=LETTERS),
    "without a grammar": GenReq(prompt="Who are you?", seed=101, max_tokens=600, **HOT),
    "grammar": GenReq(prompt="Say hello.", temperature=0, max_tokens=900, grammar='root ::= "a" root'),
    "schema": GenReq(
        prompt="Who are you?", seed=5, max_tokens=500, **HOT,
        json_schema='{"type": "array", "minItems": 200, "items": {"properties": {"n": {}}, "required": ["n"]}}',
    ),
    "three candidates": GenReq(prompt="Who are you?", seed=9, num_candidates=3, max_tokens=300, **HOT),
}  # fmt: skip


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DraftServer]:
    """Start the replica that keeps running."""
    with draft_server(tmp_path_factory.mktemp("elsewhere"), *SETTINGS) as running:
        yield running


@dataclass
class Received:
    """What a caller has received of each candidate."""

    texts: list[str]
    so_far: list[skills_pb2.Continuation] = field(default_factory=list)

    @classmethod
    def nothing(cls, request: skills_pb2.GenReq) -> Received:
        number = max(1, request.num_candidates)
        return cls([""] * number, [skills_pb2.Continuation() for _ in range(number)])

    def take(self, chunk: skills_pb2.GenChunk) -> None:
        self.texts[chunk.candidate] += chunk.text
        self.so_far[chunk.candidate].token_ids.extend(chunk.token_ids)
        self.so_far[chunk.candidate].token_logprobs.extend(chunk.token_logprobs)

    def take_all(self, stream: Any) -> skills_pb2.GenResp:
        for chunk in stream:
            if chunk.HasField("result"):
                return chunk.result  # type: ignore[no-any-return]
            self.take(chunk)
        raise AssertionError("the stream ended without its result")

    def rest_of(self, request: skills_pb2.GenReq) -> skills_pb2.GenReq:
        rest = GenReq(continuations=self.so_far)
        rest.MergeFrom(request)
        return rest


def reason_of(error: Any) -> tuple[str, str]:
    """Return domain and reason from a failed call's google.rpc.ErrorInfo."""
    trailers = dict(error.trailing_metadata() or ())
    info = error_details_pb2.ErrorInfo()
    details = status_pb2.Status.FromString(trailers.get("grpc-status-details-bin", b"")).details
    assert any(detail.Unpack(info) for detail in details), f"no ErrorInfo in {error}"
    return str(info.domain), str(info.reason)


def is_same(received: Received, last: skills_pb2.GenResp, undisturbed: skills_pb2.GenResp) -> None:
    """Check that pieces and tokens equal the undisturbed answer, and so does the result of a continued stream."""
    wanted = candidates_of(undisturbed)
    assert received.texts == [c.text for c in wanted]
    assert [list(s.token_ids) for s in received.so_far] == [list(c.token_ids) for c in wanted]
    assert last.mean_logprob == undisturbed.mean_logprob
    if last.continued_tokens:
        assert [c.text for c in candidates_of(last)] == received.texts


@pytest.mark.parametrize("request_", REQUESTS.values(), ids=list(REQUESTS))
def test_a_stream_cut_by_the_end_of_grace_goes_on_elsewhere_as_if_undisturbed(
    tmp_path: Path, elsewhere: DraftServer, request_: skills_pb2.GenReq
) -> None:
    undisturbed = elsewhere.stub.Generate(request_, timeout=60)
    received = Received.nothing(request_)
    with draft_server(tmp_path, *SETTINGS, "--grace-s", "1") as leaving:
        engine = leaving.engine_pid()
        stream = leaving.stub.GenerateStream(request_, timeout=60)
        for _ in range(7):
            received.take(next(stream))
        stop(engine)
        begin = time.monotonic()
        leaving.process.send_signal(signal.SIGTERM)
        with pytest.raises(grpc.RpcError) as cut:
            received.take_all(stream)
        assert time.monotonic() - begin < 1, "it ends before the grace period does"
        assert cut.value.code() == grpc.StatusCode.UNAVAILABLE
        assert reason_of(cut.value) == ("sarai", "DRAINING")
        assert leaving.process.wait(10) == 0
    begun = sum(len(s.token_ids) for s in received.so_far)
    assert 7 <= begun < sum(len(c.token_ids) for c in candidates_of(undisturbed))
    last = received.take_all(elsewhere.stub.GenerateStream(received.rest_of(request_), timeout=60))
    is_same(received, last, undisturbed)


def test_many_streams_cut_while_they_write_lose_and_repeat_nothing(tmp_path: Path, elsewhere: DraftServer) -> None:
    numbers = range(12)
    requests = [
        GenReq(prompt=f"Who are you, {n}?", seed=n, max_tokens=400, **HOT, grammar=LETTERS if n % 2 else "")
        for n in numbers
    ]
    with ThreadPoolExecutor(len(requests)) as pool:
        undisturbed = list(pool.map(lambda request: elsewhere.stub.Generate(request, timeout=60), requests))
        writing = threading.Barrier(len(requests) + 1)

        def ask(number: int) -> tuple[str, str] | None:
            """Return the reason why the stream was cut, None if it was not."""
            received, reason = Received.nothing(requests[number]), None
            stream = leaving.stub.GenerateStream(requests[number], timeout=60)
            received.take(next(stream))
            writing.wait(30)
            try:
                last = received.take_all(stream)
            except grpc.RpcError as error:
                reason = reason_of(error)
                rest = received.rest_of(requests[number])
                last = received.take_all(elsewhere.stub.GenerateStream(rest, timeout=60))
            is_same(received, last, undisturbed[number])
            return reason

        with draft_server(tmp_path, *SETTINGS, "--grace-s", "0.05") as leaving:
            calls = [pool.submit(ask, number) for number in numbers]
            writing.wait(30)
            leaving.process.send_signal(signal.SIGTERM)
            reasons = {call.result(60) for call in calls}
            assert ("sarai", "DRAINING") in reasons
            assert reasons <= {("sarai", "DRAINING"), None}
            assert leaving.process.wait(10) == 0


def test_a_unary_call_and_a_waiting_one_are_handed_over_too(tmp_path: Path) -> None:
    settings = (*SETTINGS, "--slots", "1", "--grace-s", "1")
    with draft_server(tmp_path, *settings) as leaving:
        running = leaving.stub.Generate.future(REQUESTS["grammar"], timeout=60)
        while not leaving.health().active_requests:
            time.sleep(0.01)
        stop(leaving.engine_pid())
        waiting = leaving.stub.Generate.future(REQUESTS["seeded"], timeout=60)
        while leaving.health().total_requests < 2:
            time.sleep(0.01)
        leaving.process.send_signal(signal.SIGTERM)
        for call in (running, waiting):
            error = call.exception(timeout=30)
            assert call.code() == grpc.StatusCode.UNAVAILABLE
            assert reason_of(error) == ("sarai", "DRAINING")
        assert leaving.process.wait(10) == 0
        assert "handing over 2 calls" in leaving.log.read_text()


def test_what_ends_within_the_grace_is_not_handed_over_however_often_sigterm_comes(tmp_path: Path) -> None:
    with draft_server(tmp_path, *SETTINGS, "--grace-s", "30") as leaving:
        stream = leaving.stub.GenerateStream(REQUESTS["grammar"], timeout=60)
        first = next(stream)
        stop(leaving.engine_pid())
        for _ in range(2):
            leaving.process.send_signal(signal.SIGTERM)
            while leaving.health().status != "DRAINING":
                time.sleep(0.01)
        os.kill(leaving.engine_pid(), signal.SIGCONT)
        assert len(whole([first, *stream]).text) == 900
        assert leaving.process.wait(10) == 0
        assert "handing over" not in leaving.log.read_text()


def test_new_calls_at_a_draining_replica_are_told_that_it_goes_away(tmp_path: Path) -> None:
    with draft_server(tmp_path, *SETTINGS) as leaving:
        running = leaving.stub.GenerateStream(REQUESTS["grammar"], timeout=60)
        next(running)
        stop(leaving.engine_pid())
        leaving.process.send_signal(signal.SIGTERM)
        while leaving.health().status != "DRAINING":
            time.sleep(0.01)
        for call in (
            lambda: leaving.stub.Generate(REQUESTS["greedy"], timeout=10),
            lambda: list(leaving.stub.GenerateStream(REQUESTS["greedy"], timeout=10)),
        ):
            with pytest.raises(grpc.RpcError) as refused:
                call()
            assert refused.value.code() == grpc.StatusCode.UNAVAILABLE
            assert reason_of(refused.value) == ("sarai", "DRAINING")
        leaving.process.send_signal(signal.SIGINT)  # cancels the calls that SIGTERM waits for
        assert leaving.process.wait(10) == 0


def test_a_call_that_comes_a_moment_after_sigterm_is_answered(tmp_path: Path) -> None:
    patient = (
        "import sys; from skills.runtime import serving; from skills.skill_draft.server import main; "
        "serving.LATECOMERS_S = 20; sys.exit(main(sys.argv[1:]))"
    )
    with draft_server(tmp_path, *SETTINGS, "--grace-s", "300", module=("-c", patient)) as leaving:
        watch = health_pb2_grpc.HealthStub(leaving.channel).Watch(health_pb2.HealthCheckRequest(), timeout=20)
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        leaving.process.send_signal(signal.SIGTERM)
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING, "health changes at once"
        request = GenReq(prompt="Say hello.", temperature=0, max_tokens=8)
        assert leaving.stub.Generate(request, timeout=10).text == "hello"
        leaving.process.send_signal(signal.SIGINT)
        assert leaving.process.wait(10) == 0


def test_a_replica_that_loads_says_so(tmp_path: Path) -> None:
    target = f"unix:{tmp_path}/s.sock"
    command = [sys.executable, *SERVER, "--listen", target, "--model", str(TINY)]
    with (
        subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL) as process,
        grpc.insecure_channel(target, SOON) as channel,
    ):
        engine = starting_engine(process.pid)
        try:
            stop(engine)  # so that it stays LOADING
            stub = skills_pb2_grpc.SkillsServiceStub(channel)
            with pytest.raises(grpc.RpcError) as refused:
                stub.Generate(REQUESTS["greedy"], timeout=20, wait_for_ready=True)
            assert refused.value.code() == grpc.StatusCode.UNAVAILABLE
            assert reason_of(refused.value) == ("sarai", "LOADING")
        finally:
            process.kill()
            with contextlib.suppress(ProcessLookupError):
                os.kill(engine, signal.SIGKILL)


def test_a_replica_whose_engine_cannot_be_started_says_so_and_serves_again_once_it_can(tmp_path: Path) -> None:
    model = tmp_path / "there.gguf"
    shutil.copy(TINY, model)
    with draft_server(tmp_path, *SETTINGS, model=model) as server:
        stream = server.stub.GenerateStream(REQUESTS["greedy"], timeout=60)
        next(stream)
        engine = server.engine_pid()
        stop(engine)
        model.rename(away := tmp_path / "away.gguf")
        os.kill(engine, signal.SIGKILL)
        for call in (lambda: list(stream), lambda: server.stub.Generate(REQUESTS["greedy"], timeout=20)):
            with pytest.raises(grpc.RpcError) as refused:
                call()
            assert refused.value.code() == grpc.StatusCode.UNAVAILABLE
            assert reason_of(refused.value) == ("sarai", "ENGINE_GONE")
        away.rename(model)
        end = time.monotonic() + 30
        while server.health().status != "SERVING":
            assert time.monotonic() < end, "the model is back, but no engine has started"
            time.sleep(0.05)
        for _ in range(2):
            assert server.stub.Generate(REQUESTS["greedy"], timeout=20).text


def test_a_replica_that_never_had_an_engine_says_so(tmp_path: Path) -> None:
    target = f"unix:{tmp_path}/s.sock"
    missing = ("--model", str(tmp_path / "missing.gguf"), "--on-start-failure", "stay")
    command = [sys.executable, *SERVER, "--listen", target, *missing]
    with (
        subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL) as process,
        grpc.insecure_channel(target, SOON) as channel,
    ):
        try:
            stub = skills_pb2_grpc.SkillsServiceStub(channel)
            while (health := stub.Health(skills_pb2.HealthReq(), timeout=30, wait_for_ready=True)).status == "LOADING":
                time.sleep(0.01)
            assert health.status == "NOT_SERVING"
            with pytest.raises(grpc.RpcError) as refused:
                stub.Generate(REQUESTS["greedy"], timeout=10)
            assert reason_of(refused.value) == ("sarai", "ENGINE_GONE")
        finally:
            process.kill()


def stop(pid: int) -> None:
    """Stop a process, so that it generates no further token however fast the machine is."""
    os.kill(pid, signal.SIGSTOP)


def starting_engine(server: int) -> int:
    """Return the engine's pid of a server that has just been started, before the engine is ready."""
    end = time.monotonic() + 10
    while True:
        for child in Path(f"/proc/{server}/task/{server}/children").read_text().split():
            if "skill_draft.engine" in Path(f"/proc/{child}/cmdline").read_text():
                return int(child)
        assert time.monotonic() < end, "no engine was started"
        time.sleep(0.001)


def test_pieces_that_nobody_reads_come_gathered(elsewhere: DraftServer) -> None:
    request = REQUESTS["three candidates"]
    each = list(elsewhere.stub.GenerateStream(request))
    begin_s = time.monotonic()
    gathered = list(elsewhere.stub.GenerateStream(request, metadata=(FEW_PIECES,)))
    took_s = time.monotonic() - begin_s
    assert len(gathered) <= request.num_candidates * (took_s / HOLD_S + 1) < len(each) / 4
    assert list(whole(gathered).candidates) == list(whole(each).candidates)
