"""How the pool handles a deadline that comes before the end of an answer, and progress before its first piece."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest

from core.errors import CallError, DeadlineError
from core.pool.aio import AsyncSkillClient
from core.pool.client import SkillClient
from core.pool.replica_set import ReplicaSet
from skills import skills_pb2
from skills.runtime.pieces import HOLD_S
from tests.stub_skill import Failure, Reply, StubSkill
from tests.system.test_replicas import FULL, REQUEST, replicas, until

HARD = skills_pb2.GenReq(prompt="x", hard_deadline=True)
CURIOUS = skills_pb2.GenReq(prompt="x", progress=True)
# Does not handle deadlines, like a skill that does not use our runtime.
SLOW = Reply(text="one two three four", chunk_delay_s=0.4)
SILENT = Reply(text="one two three four", delay_s=30)
TIME_BUDGET = skills_pb2.FINISH_REASON_TIME_BUDGET
Ask = Callable[[ReplicaSet, skills_pb2.GenReq, float], list[skills_pb2.GenChunk]]


def sync_stream(made: ReplicaSet, request: skills_pb2.GenReq, timeout: float) -> list[skills_pb2.GenChunk]:
    with SkillClient(made) as client:
        return list(client.GenerateStream(request, timeout=timeout))


def async_stream(made: ReplicaSet, request: skills_pb2.GenReq, timeout: float) -> list[skills_pb2.GenChunk]:
    async def ask() -> list[skills_pb2.GenChunk]:
        async with AsyncSkillClient(made) as client:
            return [chunk async for chunk in client.GenerateStream(request, timeout=timeout)]

    return asyncio.run(ask())


def sync_unary(made: ReplicaSet, request: skills_pb2.GenReq, timeout: float) -> list[skills_pb2.GenChunk]:
    with SkillClient(made) as client:
        return [skills_pb2.GenChunk(result=client.Generate(request, timeout=timeout))]


def async_unary(made: ReplicaSet, request: skills_pb2.GenReq, timeout: float) -> list[skills_pb2.GenChunk]:
    async def ask() -> skills_pb2.GenResp:
        async with AsyncSkillClient(made) as client:
            return await client.Generate(request, timeout=timeout)

    return [skills_pb2.GenChunk(result=asyncio.run(ask()))]


streamed = pytest.mark.parametrize("ask", [sync_stream, async_stream])
anyhow = pytest.mark.parametrize("ask", [sync_stream, async_stream, sync_unary, async_unary])


def is_first_words(chunks: list[skills_pb2.GenChunk]) -> None:
    """Check that the answer is the beginning of the whole one, cut off by the deadline."""
    *pieces, last = chunks
    words = len(last.result.token_ids)
    assert 2 <= words < 4
    assert last.result.text == " ".join(SLOW.text.split()[:words])
    assert last.result.finish_reason == TIME_BUDGET
    assert last.result.tokens_generated == words
    assert last.result.mean_logprob == pytest.approx(SLOW.logprob)
    if pieces:
        assert "".join(piece.text for piece in pieces) == last.result.text


@anyhow
def test_deadline_gives_the_text_that_has_come(ask: Ask) -> None:
    assert SLOW.chunk_delay_s > HOLD_S, "coalesced pieces must arrive before the deadline"
    with StubSkill(SLOW) as skill, replicas(skill.target) as made:
        began_s = time.monotonic()
        is_first_words(ask(made, REQUEST, 1.0))
        assert time.monotonic() - began_s < 1.3
        until(lambda: not made.outstanding)


@anyhow
def test_who_wants_the_hard_error_gets_it_from_the_pool_too(ask: Ask) -> None:
    with StubSkill(SLOW) as skill, replicas(skill.target) as made, pytest.raises(DeadlineError):
        ask(made, HARD, 0.6)


@anyhow
def test_deadline_without_text_is_an_error(ask: Ask) -> None:
    reading = Reply(text="x", delay_s=30, progress=60)
    with StubSkill(reading) as skill, replicas(skill.target) as made, pytest.raises(DeadlineError):
        ask(made, CURIOUS, 0.5)


@streamed
def test_text_of_a_replica_that_has_gone_counts(ask: Ask) -> None:
    gone = Reply(text=SLOW.text, break_after=2)
    with StubSkill([gone, SILENT]) as skill, replicas(skill.target) as made:
        is_first_words(ask(made, REQUEST, 1.0))


@streamed
def test_text_is_given_where_no_replica_comes_back_in_time(ask: Ask) -> None:
    with StubSkill(Reply(text=SLOW.text, chunk_delay_s=30)) as skill, replicas(skill.target) as made:
        skill.script([Reply(text=SLOW.text, break_after=2), *[Failure()] * 20])
        is_first_words(ask(made, REQUEST, 1.0))


@streamed
def test_text_is_given_at_once_where_nobody_has_room_in_time(ask: Ask) -> None:
    full = Failure(code=FULL, retry_after_s=30)
    with StubSkill([Reply(text=SLOW.text, break_after=2), full]) as skill, replicas(skill.target) as made:
        began_s = time.monotonic()
        is_first_words(ask(made, REQUEST, 10.0))
        assert time.monotonic() - began_s < 5


@streamed
def test_failure_before_the_deadline_stays_one_though_there_is_text(ask: Ask) -> None:
    broken = Reply(text=SLOW.text, break_after=2, failure=Failure(code=FULL))
    with StubSkill(broken) as skill, replicas(skill.target) as made, pytest.raises(CallError) as caught:
        ask(made, REQUEST, 5.0)
    assert caught.value.code() is FULL


def test_text_that_the_caller_has_already_is_not_given_in_part() -> None:
    """The client does not know the text of its tokens."""
    request = skills_pb2.GenReq(prompt="x", continuations=[skills_pb2.Continuation(token_ids=[1])])
    with StubSkill(SLOW) as skill, replicas(skill.target) as made, pytest.raises(DeadlineError):
        sync_stream(made, request, 0.6)


# --- progress ---

READING = Reply(text="one two", delay_s=0.6, progress=3)


@streamed
def test_progress_is_passed_on_and_counts_for_nothing(ask: Ask) -> None:
    with StubSkill(READING) as skill, replicas(skill.target) as made:
        chunks = ask(made, CURIOUS, 10)
        told = [chunk.progress.prompt_tokens_read for chunk in chunks if chunk.HasField("progress")]
        assert told == [0, 1, 2]
        assert "".join(chunk.text for chunk in chunks) == chunks[-1].result.text == "one two"
        assert made.replicas[0].latency("GenerateStream").wait_s >= READING.delay_s, "progress is not a piece"


@anyhow
def test_progress_of_a_replica_that_fails_does_not_keep_the_answer_back(ask: Ask) -> None:
    failing = Reply(text="one two", delay_s=0.2, progress=2, break_after=0)
    with StubSkill([failing, READING]) as skill, replicas(skill.target) as made:
        assert ask(made, CURIOUS, 10)[-1].result.text == "one two"


@anyhow
def test_progress_does_not_keep_from_asking_another_replica(ask: Ask) -> None:
    slow, fast = Reply(text="one two", delay_s=5, progress=50), Reply(text="one two", delay_s=0.2, progress=2)
    with (
        StubSkill(slow) as first, StubSkill(fast) as second,
        replicas(first.target, second.target, hedge_s=0.2) as made,
    ):  # fmt: skip
        began_s = time.monotonic()
        assert ask(made, CURIOUS, 10)[-1].result.text == "one two"
        assert time.monotonic() - began_s < 3
        assert made.stats.hedges == 1


@anyhow
def test_reporting_progress_first_is_not_answering_first(ask: Ask) -> None:
    first, second = Reply(text="one two", delay_s=0.6), Reply(text="one two", delay_s=5, progress=50)
    with StubSkill(first) as one, StubSkill(second) as two:
        with replicas(one.target, two.target, hedge_s=0.2) as made:
            began_s = time.monotonic()
            assert ask(made, CURIOUS, 10)[-1].result.text == "one two"
            assert time.monotonic() - began_s < 3
        until(lambda: bool(two.calls) and two.calls[0].ended.is_set())
        assert two.calls[0].cancelled
