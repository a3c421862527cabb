"""Kept answers of a real server: the same bits as computed ones, computed once, and only where that was asked for."""

from __future__ import annotations

import itertools
import os
import signal
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from core.config import PoolConfig
from core.errors import NotKeptError
from core.loop.config import LoopConfig
from core.model_pool import ModelPool
from core.omni_loop import OmniLoop
from skills import skills_pb2
from skills.skills_pb2 import CacheControl, GenReq
from skills.types_pb2 import ClearCacheReq
from skills.wire import Feature
from tests.late_engine import LATE
from tests.servers import DraftServer, draft_server
from tests.slow_engine import SLOW
from tests.vision import SAMPLES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HIT, PARTIAL = skills_pb2.CACHE_OUTCOME_HIT, skills_pb2.CACHE_OUTCOME_PARTIAL
JOINED, MISS = skills_pb2.CACHE_OUTCOME_JOINED, skills_pb2.CACHE_OUTCOME_MISS
ONLY = CacheControl(mode=skills_pb2.CACHE_MODE_ONLY)
BYPASS = CacheControl(mode=skills_pb2.CACHE_MODE_BYPASS)
REFRESH = CacheControl(mode=skills_pb2.CACHE_MODE_REFRESH)
TIMEOUT_S = 60
SEEDS = itertools.count(1000)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DraftServer]:
    with draft_server(tmp_path_factory.mktemp("server"), "--cache-mb", "64") as running:
        wait_until_it_keeps(running)
        yield running


def wait_until_it_keeps(server: DraftServer) -> None:
    """Wait until a server knows its identity, which it computes once it serves."""
    end = time.monotonic() + 60
    while Feature.CACHE not in server.health().features:
        assert time.monotonic() < end, server.log.read_text()
        time.sleep(0.05)


def long(**fields: Any) -> GenReq:
    """Return a request that nobody has made before, whose answer goes on for some 300 tokens."""
    given = {"prompt": "Tell me.", "temperature": 1.0, "seed": next(SEEDS), "max_tokens": 64, "regex": "[a-z ]{1900}"}
    return GenReq(**{**given, **fields})


def endless(**fields: Any) -> GenReq:
    """Return a request whose grammar never lets the answer end."""
    return GenReq(**{"temperature": 0, "grammar": 'root ::= "a" root', **fields})


def but(request: GenReq, **fields: Any) -> GenReq:
    """Return a request with some fields changed."""
    other = GenReq()
    other.CopyFrom(request)
    for name in fields:
        other.ClearField(name)  # type: ignore[arg-type]
    other.MergeFrom(GenReq(**fields))
    return other


def ask(server: DraftServer, request: GenReq) -> skills_pb2.GenResp:
    answer: skills_pb2.GenResp = server.stub.Generate(request, timeout=TIMEOUT_S)
    return answer


def content(answer: skills_pb2.GenResp) -> tuple[Any, ...]:
    """Return all that an answer consists of, to the last bit."""
    answers: tuple[skills_pb2.GenResp | skills_pb2.Candidate, ...] = (answer, *answer.candidates)
    return tuple(
        (a.text, a.finish_reason, *a.token_ids, *a.token_logprobs, *map(str, a.top_logprobs), a.mean_logprob)
        for a in answers
    )


def computed(server: DraftServer, request: GenReq) -> tuple[Any, ...]:
    """Return what is computed for a request, whatever is kept."""
    return content(ask(server, but(request, cache=BYPASS)))


def read(stream: Any, *before: skills_pb2.GenChunk) -> tuple[str, list[int], skills_pb2.GenResp]:
    """Return the joined text and tokens of a stream's pieces, and its result."""
    chunks = [*before, *stream]
    text = "".join(chunk.text for chunk in chunks)
    return text, [token for chunk in chunks for token in chunk.token_ids], chunks[-1].result


@pytest.mark.parametrize(
    "fields", [{}, {"temperature": 0}, {"top_logprobs": 3}, {"num_candidates": 3}, {"stop": [" a"]}]
)
def test_a_kept_answer_is_the_computed_one(server: DraftServer, fields: dict[str, Any]) -> None:
    request = long(prompt=f"Tell me {fields}.", **fields)
    first, again = ask(server, request), ask(server, request)
    assert (first.cache.outcome, again.cache.outcome) == (MISS, HIT)
    assert content(first) == content(again) == computed(server, request)
    assert again.cached_tokens == again.prompt_tokens == first.prompt_tokens
    assert again.cache.saved_tokens == again.prompt_tokens + again.tokens_generated
    assert again.cache.tier == skills_pb2.CACHE_TIER_MEMORY
    if "num_candidates" not in fields:
        text, tokens, result = read(server.stub.GenerateStream(request, timeout=TIMEOUT_S))
        assert (text, tokens, result.cache.outcome) == (first.text, list(first.token_ids), HIT)


def test_each_candidate_is_kept_for_itself(server: DraftServer) -> None:
    request = long(num_candidates=3)
    ask(server, request)
    assert ask(server, but(request, num_candidates=1)).cache.outcome == HIT
    two = ask(server, but(request, num_candidates=2))
    assert two.cache.outcome == HIT
    four = but(request, num_candidates=4)
    more = ask(server, four)
    assert more.cache.outcome == PARTIAL
    assert content(more) == computed(server, four)


def test_a_longer_answer_computes_only_what_is_missing(server: DraftServer) -> None:
    request = long(max_tokens=64)
    ask(server, request)
    before = server.health().engine.total_tokens
    longer = but(request, max_tokens=256)
    answer = ask(server, longer)
    assert server.health().engine.total_tokens - before == 192
    assert (answer.cache.outcome, answer.tokens_generated, answer.cache.saved_tokens) == (PARTIAL, 256, 64)
    assert content(answer) == computed(server, longer)
    assert ask(server, longer).cache.outcome == HIT


def test_limits_and_stop_strings_cut_what_is_kept(server: DraftServer) -> None:
    request = long(max_tokens=200)
    text = ask(server, request).text
    for fields in ({"max_tokens": 1}, {"max_tokens": 33}, {"stop": [text[40:43], text[90:92]]}, {"stop": ["~"]}):
        cut = but(request, **fields)
        answer = ask(server, cut)
        assert answer.cache.outcome == HIT
        assert content(answer) == computed(server, cut)


LIST = '{"type": "array", "items": {"type": "integer"}, "minItems": 3, "maxItems": 9}'


@pytest.mark.parametrize(
    "fields", [{"regex": "[a-z]{9}"}, {"json_schema": LIST}, {"json_schema": LIST, "max_tokens": 3, "close_json": 40}]
)
def test_a_constraint_ends_a_kept_answer_like_a_computed_one(server: DraftServer, fields: dict[str, Any]) -> None:
    request = long(**{"regex": "", **fields})
    whole = ask(server, request)
    n = whole.tokens_generated
    for limit in (request.max_tokens, n, n - 1, n + 1):
        for stop in ([], [whole.text[-1]], [whole.text[1:3]]):
            other = but(request, max_tokens=max(1, limit), stop=stop)
            assert content(ask(server, other)) == computed(server, other), (limit, stop)
            again = ask(server, other)
            assert again.cache.outcome == HIT
            assert content(again) == computed(server, other)


def test_a_continuation_gets_the_rest_of_what_is_kept(server: DraftServer) -> None:
    request = long(max_tokens=100)
    whole = ask(server, request)
    going_on = but(request, continuations=[skills_pb2.Continuation(token_ids=whole.token_ids[:30])])
    answer = ask(server, going_on)
    assert (answer.cache.outcome, answer.text, answer.continued_tokens) == (HIT, whole.text, 30)
    text, tokens, _ = read(server.stub.GenerateStream(going_on, timeout=TIMEOUT_S))
    assert whole.text.endswith(text)
    assert tokens == list(whole.token_ids[30:])
    forged = but(request, continuations=[skills_pb2.Continuation(token_ids=[whole.token_ids[0]] * 3)])
    made_up = ask(server, forged)
    assert made_up.cache.outcome == skills_pb2.CACHE_OUTCOME_UNSPECIFIED
    assert ask(server, request).text == whole.text, "what goes on from made-up tokens is not kept"


def test_equal_calls_at_once_are_one_computation(server: DraftServer) -> None:
    request, before = long(max_tokens=200), server.health()
    calls = [server.stub.Generate.future(request, timeout=TIMEOUT_S) for _ in range(64)]
    answers = [call.result() for call in calls]
    after = server.wait_idle()
    assert len({content(answer) for answer in answers}) == 1
    assert after.engine.prompt_tokens - before.engine.prompt_tokens == answers[0].prompt_tokens
    assert after.engine.total_tokens - before.engine.total_tokens == 200
    outcomes = [answer.cache.outcome for answer in answers]
    assert outcomes.count(MISS) == 1
    assert outcomes.count(JOINED) > 16, "many came while it was computed"


def test_a_joined_call_has_its_own_limits(server: DraftServer) -> None:
    request = long(max_tokens=200)
    others = [
        but(request, max_tokens=9),
        but(request, max_tokens=250),
        but(request, stop=["e"]),
        but(request, stop=["~"]),
    ]
    leader = server.stub.GenerateStream(request, timeout=TIMEOUT_S)
    first = next(leader)
    calls = [server.stub.Generate.future(other, timeout=TIMEOUT_S) for other in others]
    text, _, result = read(leader, first)
    answers = [call.result() for call in calls]
    assert JOINED in {answer.cache.outcome for answer in answers}
    assert (text, result.cache.outcome) == (ask(server, request).text, MISS)
    for other, answer in zip(others, answers, strict=True):
        assert content(answer) == computed(server, other)


def test_who_has_joined_loses_nothing_when_the_first_caller_goes(server: DraftServer) -> None:
    joined = 0
    for _ in range(100):
        request = long(max_tokens=24)
        leader = server.stub.GenerateStream(request, timeout=TIMEOUT_S)
        next(leader)
        other = server.stub.GenerateStream(request, timeout=TIMEOUT_S)
        piece = next(other)
        leader.cancel()
        text, tokens, result = read(other, piece)
        joined += result.cache.outcome == JOINED
        assert len(tokens) == result.tokens_generated == 24
        assert (text, result.finish_reason) == computed(server, request)[0][:2]
    assert joined > 50
    server.wait_idle()


def test_each_caller_has_its_own_deadline(tmp_path: Path) -> None:
    """The engine is as slow as with a large model: about 90 tokens a second."""
    environment = {"SLOW_ROW_MS": "10"}
    with draft_server(tmp_path, "--cache-mb", "64", module=SLOW, environment=environment) as server:
        wait_until_it_keeps(server)
        request = endless(prompt="Say hello.", max_tokens=300)
        ask(server, endless(prompt="Warm up.", max_tokens=1))
        impatient = server.stub.GenerateStream(request, timeout=2)
        piece = next(impatient)
        patient = server.stub.Generate.future(but(request, max_tokens=250), timeout=TIMEOUT_S)
        also_impatient = server.stub.Generate.future(request, timeout=1.5)
        results = [read(impatient, piece)[2], also_impatient.result()]
        assert {result.finish_reason for result in results} == {skills_pb2.FINISH_REASON_TIME_BUDGET}
        assert all(0 < result.tokens_generated < 250 for result in results)
        answer = patient.result()
        assert (answer.cache.outcome, answer.tokens_generated, answer.text) == (JOINED, 250, "a" * 250)
        assert ask(server, but(request, max_tokens=20)).cache.outcome == HIT


def test_a_call_that_joins_a_batch_request_does_not_wait_like_one(tmp_path: Path) -> None:
    with draft_server(tmp_path, "--cache-mb", "64", "--slots", "1") as server:
        wait_until_it_keeps(server)
        running = server.stub.GenerateStream(endless(prompt="First.", max_tokens=900))
        next(running)
        batch = long(priority=skills_pb2.PRIORITY_BATCH, max_tokens=8)
        order: list[str] = []
        calls = {}
        for name, request in (("batch", batch), ("next", long(max_tokens=8)), ("joined", but(batch, priority=0))):
            calls[name] = call = server.stub.Generate.future(request, timeout=TIMEOUT_S)
            call.add_done_callback(partial(_append, order, name))
            time.sleep(0.05)
        assert calls["joined"].result().cache.outcome == JOINED
        calls["next"].result()
        end = time.monotonic() + 5
        while len(order) < 3:
            assert time.monotonic() < end
            time.sleep(0.01)
        assert order[-1] == "next", "it came before the one who joined, but after the one that was joined"


def test_fast_numerics_keep_whole_requests_only(tmp_path: Path) -> None:
    with draft_server(tmp_path, "--cache-mb", "64", "--numerics", "fast") as server:
        wait_until_it_keeps(server)
        request = long()
        first = ask(server, request)
        assert content(ask(server, request)) == content(first)
        outcomes = [ask(server, each).cache.outcome for each in (request, but(request, max_tokens=9))]
        assert outcomes == [HIT, MISS]


def test_a_computation_ends_with_its_last_reader(server: DraftServer) -> None:
    request = endless(prompt="Who reads this?", max_tokens=1500)
    streams = [server.stub.GenerateStream(request, timeout=TIMEOUT_S) for _ in range(3)]
    for stream in streams:
        next(stream)
    streams[0].cancel()
    streams[1].cancel()
    assert next(streams[2]).text
    assert server.health().active_requests == 1
    streams[2].cancel()
    server.wait_idle(5)


def test_calls_that_share_a_computation_survive_the_engine(server: DraftServer) -> None:
    request = long(max_tokens=200)
    streams = [server.stub.GenerateStream(request, timeout=TIMEOUT_S) for _ in range(3)]
    pieces = [next(stream) for stream in streams]
    os.kill(server.engine_pid(), signal.SIGKILL)
    answers = [read(stream, piece) for stream, piece in zip(streams, pieces, strict=True)]
    wait_until_it_keeps(server)
    assert {answer[:1] for answer in ((text,) for text, *_ in answers)} == {(computed(server, request)[0][0],)}
    assert [result.cache.outcome for *_, result in answers].count(JOINED) == 2


def test_the_caller_says_what_is_kept_and_given(server: DraftServer) -> None:
    request = long()
    with pytest.raises(grpc.RpcError) as refused:
        ask(server, but(request, cache=ONLY))
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND
    assert ask(server, but(request, cache=BYPASS)).cache.outcome == skills_pb2.CACHE_OUTCOME_UNSPECIFIED
    assert ask(server, request).cache.outcome == MISS, "what was not to be kept was not"
    assert ask(server, but(request, cache=ONLY)).cache.outcome == HIT
    time.sleep(0.02)
    assert ask(server, but(request, cache=CacheControl(max_age_ms=1))).cache.outcome == MISS
    assert ask(server, but(request, cache=REFRESH)).cache.outcome == MISS
    assert ask(server, but(request, cache=CacheControl(max_age_ms=60_000))).cache.outcome == HIT
    assert ask(server, GenReq(prompt="a", max_tokens=2)).cache.outcome == skills_pb2.CACHE_OUTCOME_UNSPECIFIED
    cleared = server.stub.ClearCache(ClearCacheReq())
    assert cleared.entries > 0
    assert cleared.bytes > 0
    assert ask(server, request).cache.outcome == MISS


def test_an_image_that_was_seen_is_not_read_again(server: DraftServer) -> None:
    data = next(iter(sorted(SAMPLES.glob("*.png")))).read_bytes()
    parts = [skills_pb2.Part(text="What is it?"), skills_pb2.Part(image=skills_pb2.Image(data=data))]
    request = GenReq(messages=[skills_pb2.Message(role="user", parts=parts)], temperature=0, max_tokens=24)
    first, seen = ask(server, request), server.health().engine.images
    again = ask(server, request)
    assert again.cache.outcome == HIT
    assert content(first) == content(again)
    assert first.image_tokens == again.image_tokens > 0
    assert server.health().engine.images == seen


def test_the_loop_run_twice_is_served_from_what_is_kept(server: DraftServer) -> None:
    with ModelPool(PoolConfig(targets={"SARAI_DRAFT_TARGET": server.target})) as pool:
        loop = OmniLoop(LoopConfig(confidence_threshold=None, max_iterations=2, max_tokens=24), pool=pool)
        first = loop.run("Why is the sky blue?")
        before = server.health()
        again = loop.run("Why is the sky blue?")
        after = server.health()
        assert again.answer == first.answer
        assert after.engine.total_tokens == before.engine.total_tokens
        assert after.cache.hits - before.cache.hits == after.total_requests - before.total_requests > 1
        with pytest.raises(NotKeptError, match="CACHE_MODE_ONLY"):
            pool.get_skill_client("draft").Generate(long(cache=ONLY))


def test_what_is_drawn_with_a_random_seed_takes_no_room(server: DraftServer) -> None:
    before = server.health().cache
    drawn: dict[str, Any] = {"prompt": "Tell me.", "max_tokens": 24, "temperature": 1.0}
    with ModelPool(PoolConfig(targets={"SARAI_DRAFT_TARGET": server.target})) as pool:
        first, second = (pool.get_skill_client("draft").Generate(GenReq(**drawn)) for _ in range(2))
        OmniLoop(LoopConfig(temperature=1.0, max_iterations=1, max_tokens=24), pool=pool).run("Tell me.")
        assert first.seed != second.seed
        after = server.health().cache
        assert (after.entries, after.misses, after.hits) == (before.entries, before.misses, before.hits)
        again = pool.get_skill_client("draft").Generate(GenReq(**drawn, seed=first.seed))
    assert again.cache.outcome == MISS, "now it was chosen"
    assert content(again) == content(first)


def test_hits_are_computed_anew_and_compared(tmp_path: Path) -> None:
    with draft_server(tmp_path, "--cache-mb", "64", "--cache-recheck", "2") as server:
        wait_until_it_keeps(server)
        request = long(max_tokens=12, num_candidates=2)
        for _ in range(6):
            ask(server, request)
            server.wait_idle()
        end = time.monotonic() + 10
        while server.health().cache.rechecked < 2:
            assert time.monotonic() < end
            time.sleep(0.02)
        assert not server.health().cache.rechecked_wrong


def test_a_kept_answer_is_given_while_the_model_loads(tmp_path: Path) -> None:
    kept, request = ("--cache-mb", "64", "--cache-disk", str(tmp_path / "answers.db")), long()
    with draft_server(tmp_path, *kept) as server:
        wait_until_it_keeps(server)
        first = ask(server, request)
    with draft_server(tmp_path, *kept, module=LATE, environment={"LATE_S": "5"}, until="LOADING") as server:
        end = time.monotonic() + 4
        while (answer := _or_none(server, request)) is None:
            assert time.monotonic() < end, server.log.read_text()
        assert server.health().status == "LOADING"
        assert content(answer) == content(first)
        assert answer.cache.tier == skills_pb2.CACHE_TIER_DISK
        with pytest.raises(grpc.RpcError) as refused:
            ask(server, long())
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


def _append(names: list[str], name: str, _: object) -> None:
    names.append(name)


def _or_none(server: DraftServer, request: GenReq) -> skills_pb2.GenResp | None:
    """Return an answer, or None while the server does not have its identity yet."""
    try:
        return ask(server, request)
    except grpc.RpcError:
        return None
