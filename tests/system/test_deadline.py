"""What a call returns if its deadline comes before the end of its answer, over real sockets."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from core.config import PoolConfig
from core.errors import DeadlineError
from core.plugins import get_plugins
from core.pool.backend import AddressReplica
from core.pool.client import SkillClient
from core.pool.replica_set import ReplicaSet
from skills import skills_pb2
from skills.wire import FEW_PIECES
from tests.answers import whole
from tests.fault_proxy import FaultProxy
from tests.servers import DraftServer, draft_server
from tests.slow_engine import SLOW

GenReq = skills_pb2.GenReq
LENGTH, TIME_BUDGET = skills_pb2.FINISH_REASON_LENGTH, skills_pb2.FINISH_REASON_TIME_BUDGET
LATE = grpc.StatusCode.DEADLINE_EXCEEDED
LONG = "Count to twenty. " * 40


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DraftServer]:
    """Start a server that is as slow as with a large model: about 90 tokens a second."""
    with slow(tmp_path_factory.mktemp("server"), "--n-batch", "64") as running:
        yield warm(running)


def slow(folder: Path, *arguments: str) -> Any:
    environment = {"SLOW_ROW_MS": "10"}
    return draft_server(folder, "--n-ctx", "1024", "--threads", "1", *arguments, module=SLOW, environment=environment)


def warm(server: DraftServer) -> DraftServer:
    """Have the first grammar compiled, which starts a process: half a second on a busy machine."""
    unary(server, endless(max_tokens=1), 20)
    return server


def endless(**fields: Any) -> skills_pb2.GenReq:
    """Return a request whose grammar never lets the answer end."""
    given: dict[str, Any] = {"prompt": "Say hello.", "max_tokens": 900, "grammar": 'root ::= "a" root'}
    return GenReq(**{"temperature": 0, **given, **fields})


def unary(server: DraftServer, request: skills_pb2.GenReq, timeout: float) -> skills_pb2.GenResp:
    return server.stub.Generate(request, timeout=timeout)


def stream(server: DraftServer, request: skills_pb2.GenReq, timeout: float) -> skills_pb2.GenResp:
    return whole(server.stub.GenerateStream(request, timeout=timeout))


def late(call: Callable[[], Any]) -> str:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    assert caught.value.code() == LATE
    return str(caught.value.details())


@pytest.mark.parametrize("ask", [unary, stream])
# 1.0 is one of the timeouts that gRPC rounds up when it sends them.
@pytest.mark.parametrize("timeout", [0.5, 1.0, 1.234])
def test_deadline_gives_the_text_that_is_there(server: DraftServer, ask: Any, timeout: float) -> None:
    begin_s = time.monotonic()
    answer = ask(server, endless(), timeout)
    took_s = time.monotonic() - begin_s
    assert answer.finish_reason == TIME_BUDGET
    assert answer.text == "a" * len(answer.token_ids)
    assert took_s > timeout / 2, "the answer ended early"
    assert answer.tokens_generated == len(answer.token_ids) > 2
    assert server.stub.Generate(endless(max_tokens=len(answer.token_ids)), timeout=20).text == answer.text
    server.wait_idle(timeout=1)


def test_ten_seconds_are_sent_as_more_and_kept_to_all_the_same(server: DraftServer) -> None:
    """gRPC sends 10.0 s as 10.1 s."""
    begin_s = time.monotonic()
    answer = unary(server, endless(num_candidates=3), 10.0)
    assert {candidate.finish_reason for candidate in answer.candidates} == {TIME_BUDGET}
    assert time.monotonic() - begin_s > 10 - 0.25 * 10.1, "it may end early only by a small margin"


def test_deadline_gives_every_candidate_as_far_as_it_is(server: DraftServer) -> None:
    either = 'root ::= "b" | "a" rest\nrest ::= "a" rest'
    request = endless(grammar=either, num_candidates=8, temperature=5, top_k=0, top_p=1, min_p=0, seed=3)
    reasons = set()
    for candidate in stream(server, request, 1.0).candidates:
        reasons.add(candidate.finish_reason)
        if candidate.finish_reason == TIME_BUDGET:
            assert candidate.text == "a" * len(candidate.token_ids)
        else:
            assert candidate.text == "b"
    assert reasons == {TIME_BUDGET, skills_pb2.FINISH_REASON_STOP}


def test_many_callers_at_once_all_get_their_text_in_time(server: DraftServer) -> None:
    timeouts = [3.5 - number / 20 for number in range(12)]  # gRPC sends some of them as the previous, longer one
    with ThreadPoolExecutor(len(timeouts)) as pool:
        answers = list(pool.map(lambda timeout: unary(server, endless(), timeout), timeouts))
    assert {answer.finish_reason for answer in answers} == {TIME_BUDGET}
    assert all(answer.text == "a" * len(answer.token_ids) != "" for answer in answers)


def test_who_wants_the_hard_error_gets_it(server: DraftServer) -> None:
    begin_s = time.monotonic()
    late(lambda: unary(server, endless(hard_deadline=True), 0.4))
    assert 0.35 < time.monotonic() - begin_s < 1.4
    late(lambda: list(server.stub.GenerateStream(endless(hard_deadline=True), timeout=0.4)))
    server.wait_idle(timeout=1)


def test_server_may_be_told_to_give_the_hard_error(tmp_path: Path) -> None:
    with slow(tmp_path, "--deadline", "error") as strict:
        late(lambda: unary(strict, endless(), 0.4))
        assert len(unary(strict, endless(max_tokens=3), 10).text) == 3


def test_text_is_given_though_the_engine_hangs(tmp_path: Path) -> None:
    with slow(tmp_path, "--step-timeout-s", "60") as server:
        call = warm(server).stub.GenerateStream(endless(), timeout=1.5)
        before = [next(call), next(call)]
        os.kill(server.engine_pid(), signal.SIGSTOP)
        answer = whole([*before, *call])
        assert answer.finish_reason == TIME_BUDGET
        assert answer.text == "a" * len(answer.token_ids)
        assert answer.tokens_generated == len(answer.token_ids)


def test_text_is_given_though_the_engine_is_replaced(tmp_path: Path) -> None:
    with slow(tmp_path) as server:
        call = warm(server).stub.GenerateStream(endless(), timeout=2.2)
        first = next(call)
        time.sleep(1.5)  # a new engine takes about the remaining time
        os.kill(server.engine_pid(), signal.SIGKILL)
        answer = whole([first, *call])
        assert answer.finish_reason == TIME_BUDGET
        assert answer.text.startswith("aa")


def test_text_of_an_earlier_replica_counts(tmp_path: Path) -> None:
    with slow(tmp_path, "--slots", "1") as server:
        begun = unary(server, endless(max_tokens=5), 10)
        running = server.stub.GenerateStream(endless())
        next(running)
        so_far = skills_pb2.Continuation(token_ids=begun.token_ids, token_logprobs=begun.token_logprobs)
        answer = unary(server, endless(continuations=[so_far]), 0.5)
        assert (answer.text, answer.finish_reason) == ("aaaaa", TIME_BUDGET)
        assert list(answer.token_ids) == list(begun.token_ids)
        assert answer.tokens_generated == answer.continued_tokens == 5, "this call must generate none of them"
        nothing = skills_pb2.Continuation()
        both = unary(server, endless(num_candidates=2, max_tokens=5, continuations=[so_far, nothing]), 0.5)
        assert [candidate.text for candidate in both.candidates] == ["aaaaa", ""]
        assert [candidate.finish_reason for candidate in both.candidates] == [LENGTH, TIME_BUDGET]
        running.cancel()


def test_without_text_the_error_says_what_the_call_waited_for(tmp_path: Path) -> None:
    with slow(tmp_path, "--slots", "1") as server:
        # The server does not know its speed yet, so it tries this call.
        assert "of the prompt were read" in late(lambda: unary(server, endless(prompt=LONG, max_tokens=5), 0.5))
        running = server.stub.GenerateStream(endless())
        next(running)
        assert "in the queue, at place 1" in late(lambda: unary(server, endless(), 0.5))
        running.cancel()


def test_hopeless_calls_are_refused_at_once(tmp_path: Path) -> None:
    with slow(tmp_path, "--slots", "1", "--kv-cells", "1024") as server:
        unary(server, endless(prompt="other " * 60, max_tokens=2), 20)  # the server learns its prefill speed
        begin_s = time.monotonic()
        assert "reading the prompt takes about" in late(lambda: unary(server, endless(prompt=LONG), 0.6))
        assert time.monotonic() - begin_s < 0.55
        unary(server, endless(max_tokens=320), 20)  # and how long answers take
        running = server.stub.GenerateStream(endless(max_tokens=320))
        next(running)
        begin_s = time.monotonic()
        message = late(lambda: unary(server, endless(), 0.8))
        assert "in the queue is about" in message
        assert "place 1" in message
        assert time.monotonic() - begin_s < 0.75
        running.cancel()


# --- through the pool ---


@contextlib.contextmanager
def client_at(*targets: str) -> Iterator[SkillClient]:
    members = [AddressReplica(target, "address") for target in targets]
    made = ReplicaSet(get_plugins().skills["draft"], PoolConfig(), members)
    with contextlib.closing(made), SkillClient(made) as client:
        yield client


def test_pool_gives_the_servers_own_answer_in_time(server: DraftServer) -> None:
    with client_at(server.target) as client:
        answer = client.Generate(endless(), timeout=1.5)
        assert (answer.finish_reason, answer.model) == (TIME_BUDGET, "tiny-qwen3vl-q8_0")
        assert answer.text == "a" * len(answer.token_ids) != ""
        with pytest.raises(DeadlineError):
            client.Generate(endless(hard_deadline=True), timeout=0.5)


def test_pool_keeps_to_what_the_server_makes_of_deadlines(tmp_path: Path) -> None:
    with slow(tmp_path, "--deadline", "error") as strict, client_at(strict.target) as client:
        for ask in (client.Generate, lambda *given, **named: list(client.GenerateStream(*given, **named))):
            with pytest.raises(DeadlineError):
                ask(endless(), timeout=0.6)


def test_slow_wire_costs_the_pools_callers_no_text(server: DraftServer) -> None:
    with FaultProxy(server.target) as proxy, client_at(proxy.target) as client:
        client.Health(timeout=5)
        proxy.delay(0.3)
        chunks = list(client.GenerateStream(endless(), timeout=1.5))
        assert chunks[-1].result.finish_reason == TIME_BUDGET
        assert "".join(chunk.text for chunk in chunks) == chunks[-1].result.text != ""


def test_text_of_a_replica_that_dies_is_in_the_answer_at_the_deadline(server: DraftServer, tmp_path: Path) -> None:
    with slow(tmp_path) as leaving, client_at(warm(leaving).target) as alone:
        stream = alone.GenerateStream(endless(), timeout=2.0)
        text = next(stream).text + next(stream).text
        leaving.process.kill()
        *pieces, last = stream
        assert last.result.text == text + "".join(piece.text for piece in pieces)
        assert last.result.finish_reason == TIME_BUDGET
    with slow(tmp_path) as leaving, client_at(warm(leaving).target, server.target) as client:
        stream = client.GenerateStream(endless(), timeout=3.0)
        text = next(stream).text + next(stream).text
        where = leaving if leaving.health().active_requests else server
        if where is leaving:
            leaving.process.kill()
        *pieces, last = stream
        assert last.result.text == text + "".join(piece.text for piece in pieces)
        assert last.result.finish_reason == TIME_BUDGET


# --- progress ---


def test_stream_that_asks_is_told_how_much_of_its_prompt_is_read(server: DraftServer) -> None:
    begin_s = time.monotonic()
    *chunks, last = server.stub.GenerateStream(
        GenReq(prompt=LONG + "Say hello.", temperature=0, max_tokens=3, progress=True), timeout=60
    )
    told = [chunk.progress for chunk in chunks if chunk.HasField("progress")]
    assert told == [chunk.progress for chunk in chunks[: len(told)]], "progress comes only before the first piece"
    assert 3 <= len(told) <= 2 + (time.monotonic() - begin_s) / 0.25
    assert {progress.prompt_tokens for progress in told} == {last.result.prompt_tokens}
    read = [progress.prompt_tokens_read for progress in told]
    assert read == sorted(read)
    assert 0 < read[-1] <= last.result.prompt_tokens
    assert told[-1].expected_wait_s < told[0].expected_wait_s
    assert whole([*chunks, last]).text


def test_stream_that_waits_is_told_its_place(tmp_path: Path) -> None:
    with slow(tmp_path, "--slots", "1") as server:
        running = server.stub.GenerateStream(endless(max_tokens=100))
        begin = next(running)
        ahead = server.stub.GenerateStream(endless(max_tokens=1), timeout=60)
        while not server.health().queued_requests:
            time.sleep(0.01)
        waiting = server.stub.GenerateStream(endless(max_tokens=1, progress=True), timeout=60)
        first = next(waiting).progress
        assert first.queue_position == 2
        assert 0 < first.expected_wait_s < 60
        assert whole(ahead).text == whole([begin, *running]).text[:1]
        assert whole(waiting).text == "a"


def test_calls_that_do_not_ask_are_sent_no_progress(server: DraftServer) -> None:
    text = LONG[: len(LONG) // 3]
    chunks = list(server.stub.GenerateStream(GenReq(prompt="No. " + text, temperature=0, max_tokens=3), timeout=60))
    assert not any(chunk.HasField("progress") for chunk in chunks)
    request = GenReq(prompt="Nor. " + text, temperature=0, max_tokens=3, progress=True)
    assert server.stub.Generate(request, timeout=60).tokens_generated == 3
    request.prompt = "Neither. " + text
    gathered = list(server.stub.GenerateStream(request, timeout=60, metadata=(FEW_PIECES,)))
    assert sum(len(chunk.token_ids) for chunk in gathered) == 3
    assert all(chunk.token_ids or chunk.HasField("result") for chunk in gathered)
