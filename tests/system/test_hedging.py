"""A call without a first piece for too long is hedged at another replica; real servers, scripted answers."""

from __future__ import annotations

import asyncio
import time

import pytest

from core.pool.aio import AsyncSkillClient
from core.pool.client import SkillClient
from tests.stub_skill import Answer, Reply, StubSkill
from tests.system.test_replicas import REQUEST, client_of, replicas, until

TEXT = "one two three"
HEDGE_S = 0.2
LONG_S = 5.0


def _all_over(client: SkillClient, *skills: StubSkill) -> None:
    """Wait until no call runs, neither at the replicas nor in the client."""
    until(lambda: all(call.ended.is_set() for skill in skills for call in skill.calls))
    until(lambda: not client._wire.pool.outstanding)


def test_hedged_call_belongs_to_the_replica_that_answers_first() -> None:
    with StubSkill(Reply(text=TEXT, delay_s=LONG_S)) as slow, StubSkill(TEXT) as fast:
        with client_of(slow, fast, hedge_s=HEDGE_S) as client:
            began_s = time.monotonic()
            assert "".join(chunk.text for chunk in client.GenerateStream(REQUEST, timeout=10)) == TEXT
            assert time.monotonic() - began_s < LONG_S / 2
            _all_over(client, slow, fast)
            stats = client.stats()
        assert slow.calls[0].cancelled, "the slower attempt is cancelled"
        assert slow.requests[0].seed == fast.requests[0].seed, "both attempts have the same seed"
        assert (stats.calls, stats.attempts, stats.hedges, stats.failovers) == (1, 2, 1, 0)


def test_answer_that_goes_on_after_a_break_is_raced_from_there() -> None:
    broken = Reply(text=TEXT, break_after=1)
    with StubSkill(broken) as first, StubSkill(Reply(text=TEXT, delay_s=LONG_S)) as slow, StubSkill(TEXT) as fast:
        with client_of(first, slow, fast, hedge_s=HEDGE_S) as client:
            pieces = [chunk.text for chunk in client.GenerateStream(REQUEST, timeout=10)]
            _all_over(client, first, slow, fast)
        assert pieces == ["one", " two", " three", ""]
        assert [len(r.continuations[0].token_ids) for skill in (slow, fast) for r in skill.requests] == [1, 1]


def test_winner_that_breaks_is_no_end() -> None:
    slow_once: list[Answer] = [Reply(text=TEXT, delay_s=LONG_S), TEXT]
    with (
        StubSkill(slow_once) as slow, StubSkill(Reply(text=TEXT, break_after=2)) as breaking,
        client_of(slow, breaking, hedge_s=HEDGE_S) as client,
    ):  # fmt: skip
        assert client.Generate(REQUEST, timeout=10).text == TEXT
        _all_over(client, slow, breaking)
        assert (client.stats().hedges, client.stats().failovers) == (1, 1)


def test_caller_that_leaves_while_two_are_asked_leaves_nothing_behind() -> None:
    slow = Reply(text=TEXT, delay_s=LONG_S)
    with StubSkill(slow) as one, StubSkill(slow) as two, client_of(one, two, hedge_s=HEDGE_S) as client:
        stream = client.GenerateStream(REQUEST, timeout=10)
        until(lambda: len(one.calls) == len(two.calls) == 1)
        stream.close()
        _all_over(client, one, two)
        assert one.calls[0].cancelled
        assert two.calls[0].cancelled
        assert list(stream) == []


def test_rival_that_answered_is_cancelled_when_the_caller_stops_reading() -> None:
    with (
        StubSkill(Reply(text=TEXT, delay_s=LONG_S)) as slow,
        StubSkill(Reply(text=TEXT, chunk_delay_s=LONG_S)) as fast,
        client_of(slow, fast, hedge_s=HEDGE_S) as client,
    ):
        stream = client.GenerateStream(REQUEST, timeout=10)
        until(lambda: bool(slow.calls) and slow.calls[0].ended.is_set())
        stream.close()
        _all_over(client, slow, fast)
        assert fast.calls[0].cancelled


def test_async_hedged_call_belongs_to_the_replica_that_answers_first() -> None:
    async def run(*targets: str) -> str:
        with replicas(*targets, hedge_s=HEDGE_S) as made:
            async with AsyncSkillClient(made) as client:
                answer = await client.Generate(REQUEST, timeout=10)
            assert not made.outstanding
            return answer.text

    with StubSkill(Reply(text=TEXT, delay_s=LONG_S)) as slow, StubSkill(TEXT) as fast:
        began_s = time.monotonic()
        assert asyncio.run(run(slow.target, fast.target)) == TEXT
        assert time.monotonic() - began_s < LONG_S / 2
        assert slow.calls[0].ended.wait(5)
        assert slow.calls[0].cancelled


def test_async_caller_that_is_cancelled_while_two_are_asked_leaves_nothing_behind() -> None:
    slow = Reply(text=TEXT, delay_s=LONG_S)

    async def run(one: StubSkill, two: StubSkill) -> None:
        with replicas(one.target, two.target, hedge_s=HEDGE_S) as made:
            async with AsyncSkillClient(made) as client:
                asking = asyncio.create_task(client.Generate(REQUEST, timeout=10))
                await asyncio.to_thread(until, lambda: len(one.calls) == len(two.calls) == 1)
                asking.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await asking
                await asyncio.to_thread(until, lambda: not made.outstanding)
                await asyncio.to_thread(until, lambda: one.calls[0].ended.is_set() and two.calls[0].ended.is_set())

    with StubSkill(slow) as one, StubSkill(slow) as two:
        asyncio.run(run(one, two))
        assert one.calls[0].cancelled
        assert two.calls[0].cancelled
