"""However a caller abandons an answer, nothing remains: no running attempt at a replica, no waiting call."""

from __future__ import annotations

import gc
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from core.errors import CallCancelledError, SaraiError
from core.pool.answer import ANSWERS, Answer
from core.pool.events import Asked, Left
from core.pool.records import Attempt, Call
from skills import skills_pb2
from tests.both_clients import BOTH, Stream, User
from tests.stub_skill import Failure, Reply, StubSkill
from tests.system.test_replicas import REQUEST, replicas, until

SLOW = Reply(text="one two three", chunk_delay_s=30)
FULL = Failure(code=grpc.StatusCode.RESOURCE_EXHAUSTED, retry_after_s=0.1)


class Cycle:
    """A reference cycle with a stream, which only the garbage collector frees."""

    def __init__(self, stream: Stream) -> None:
        self.stream, self.itself = stream, self


def collect() -> None:
    gc.collect()


@pytest.mark.parametrize("user", BOTH)
def test_loop_over_an_answer_that_is_left_by_break_cancels_the_call(user: User) -> None:
    with StubSkill(SLOW) as skill, replicas(skill.target) as made, user(made) as client:
        for _ in range(5):
            client.glance(REQUEST)
        until(lambda: not made.outstanding)
        assert all(call.ended.wait(2) and call.cancelled for call in skill.calls)


@pytest.mark.parametrize("user", BOTH)
def test_replica_whose_answers_were_left_is_called_again_after_it_was_full(user: User) -> None:
    script: list[Reply | Failure | str] = [SLOW, SLOW, SLOW, FULL, "yes"]
    with StubSkill(script) as skill, replicas(skill.target) as made, user(made) as client:
        for _ in range(3):
            client.glance(REQUEST)
        assert client.ask(REQUEST, timeout=5).text == "yes"


@pytest.mark.parametrize("user", BOTH)
def test_closing_a_client_gives_back_the_places_of_answers_that_nobody_reads_on(user: User) -> None:
    with StubSkill(SLOW) as skill, replicas(skill.target) as made:
        with user(made) as client, user(made) as other:
            held, others = client.begin(REQUEST), other.begin(REQUEST)
            assert [next(held).text, next(others).text] == ["one", "one"]
            client.close()
            assert made.outstanding == 1, "the other client's call continues"
            with pytest.raises(SaraiError):
                next(held)
        assert not made.outstanding


@pytest.mark.parametrize("user", BOTH)
def test_garbage_collector_that_finds_an_answer_while_calls_are_served_disturbs_nobody(user: User) -> None:
    with StubSkill(SLOW) as skill, replicas(skill.target) as made, user(made) as client:
        forgotten = Cycle(client.begin(REQUEST))
        next(forgotten.stream)
        gc.disable()
        try:
            del forgotten
            (replica,) = made.replicas
            replica.pause(time.monotonic())
            # The first call to be served runs the collector while it is being served.
            calls = [Call(ANSWERS, time.monotonic() + 10) for _ in range(2)]
            for call in calls:
                call.wake = collect
                made.tell(Asked(call))
            until(lambda: all(call.attempt is not None for call in calls))
        finally:
            gc.enable()
        for call in calls:
            made.tell(Left(call))
        until(lambda: not made.outstanding)


@pytest.mark.parametrize("user", BOTH)
def test_garbage_collector_that_finds_an_answer_wakes_who_waits_for_its_place(user: User) -> None:
    with StubSkill([FULL, SLOW, "yes"]) as skill, replicas(skill.target) as made, user(made) as client:
        forgotten = Cycle(client.begin(REQUEST))
        assert next(forgotten.stream).text == "one"
        with ThreadPoolExecutor(1) as thread:
            waiting = thread.submit(client.ask, skills_pb2.GenReq(prompt="another"))
            until(lambda: made.waiting == 1)
            del forgotten
            gc.collect()
            assert waiting.result(2).text == "yes"


@pytest.mark.parametrize("user", BOTH)
def test_call_that_is_over_leaves_nothing_to_the_garbage_collector(user: User) -> None:
    """Objects in a cycle would keep a connection open until the collector runs."""
    broken = Reply(text="one two", break_after=1)
    with StubSkill([broken, "one two", SLOW]) as skill, replicas(skill.target) as made, user(made) as client:
        gc.disable()
        try:
            assert "".join(chunk.text for chunk in client.begin(REQUEST)) == "one two"
            client.glance(REQUEST)
            until(lambda: not made.outstanding)
            until(lambda: not any(isinstance(each, (Answer, Attempt, Call)) for each in gc.get_objects()))
        finally:
            gc.enable()


@pytest.mark.parametrize("user", BOTH)
def test_answer_that_is_closed_while_it_waits_for_a_replica_ends_at_once(user: User) -> None:
    skill = StubSkill(SLOW).start()
    with replicas(skill.target) as made, user(made) as client, ThreadPoolExecutor(1) as thread:
        stream = client.begin(REQUEST)
        assert next(stream).text == "one"
        skill.stop()
        reading = thread.submit(next, stream)
        until(lambda: made.waiting == 1)
        closed_s = time.monotonic()
        stream.close()
        with pytest.raises(CallCancelledError):
            reading.result(10)
        assert time.monotonic() - closed_s < 1
        assert list(stream) == []
        assert not made.outstanding


@pytest.mark.parametrize("user", BOTH)
def test_answer_that_is_closed_while_it_is_read_ends_at_once_with_one_of_our_errors(user: User) -> None:
    with StubSkill(SLOW) as skill, replicas(skill.target) as made, user(made) as client:
        stream = client.begin(REQUEST)
        assert next(stream).text == "one"
        threading.Timer(0.2, stream.close).start()
        with pytest.raises(CallCancelledError):
            next(stream)
        until(lambda: not made.outstanding)
