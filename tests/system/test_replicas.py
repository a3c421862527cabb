"""Several replicas behind one client: real servers with scripted answers, each over a socket of its own."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gc
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from core.aio import AsyncSkillClient
from core.backends.address import AddressReplica
from core.backends.health import check_serving
from core.client import SkillClient
from core.config import PoolConfig
from core.errors import (
    CallCancelledError,
    DeadlineError,
    OverloadedError,
    PoolClosedError,
    SaraiError,
    SkillFailedError,
    UnavailableError,
)
from core.pool.answer import FEW_PIECES
from core.pool.events import HealthTold, Probed, Targets
from core.pool.records import EJECT_AFTER
from core.pool.replica_set import ReplicaSet
from core.pool.retry_budget import FLOOR, RetryBudget
from skills import skills_pb2
from skills.runtime.pieces import HOLD_S
from tests.fault_proxy import FaultProxy
from tests.stub_plugin import free_port, stub_spec
from tests.stub_skill import Answer, Failure, Reply, StubSkill

ROOT = Path(__file__).parents[3]
REQUEST = skills_pb2.GenReq(prompt="x")
FULL = grpc.StatusCode.RESOURCE_EXHAUSTED


@contextlib.contextmanager
def replicas(*targets: str, **settings: object) -> Iterator[ReplicaSet]:
    config = PoolConfig(**settings)  # type: ignore[arg-type]  # whatever a test wants
    made = ReplicaSet(stub_spec(), config, [AddressReplica(target, "address") for target in targets])
    try:
        yield made
    finally:
        made.close()


@contextlib.contextmanager
def client_of(*skills: StubSkill | str, **settings: object) -> Iterator[SkillClient]:
    targets = [skill if isinstance(skill, str) else skill.target for skill in skills]
    with replicas(*targets, **settings) as made, SkillClient(made) as client:
        yield client


@dataclasses.dataclass(frozen=True)
class StubProcess:
    """The stub skill as a process of its own."""

    process: subprocess.Popen[bytes]
    target: str


@contextlib.contextmanager
def process(*options: str, module: str = "tests.stub_skill", port: int | None = None) -> Iterator[StubProcess]:
    target = f"127.0.0.1:{port or free_port()}"
    command = [sys.executable, "-m", module, "--listen", target, *options]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL) as running:
        try:
            until(lambda: check_serving(target, "", timeout_s=1.0), 20)
            yield StubProcess(running, target)
        finally:
            running.send_signal(signal.SIGCONT)
            running.kill()


def until(holds: Callable[[], bool], within_s: float = 5.0) -> None:
    end_s = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < end_s, "it did not come true"
        time.sleep(0.01)


def served(skill: StubSkill) -> int:
    return len(skill.requests)


def test_call_goes_to_another_replica_when_nobody_answers_at_the_first() -> None:
    with StubSkill("yes") as skill, client_of(f"127.0.0.1:{free_port()}", skill) as client:
        started_s = time.monotonic()
        assert [client.Generate(REQUEST, timeout=10).text for _ in range(4)] == ["yes"] * 4
        assert time.monotonic() - started_s < 2
        assert client.stats().failovers <= 1, "who is down gets no further call"


def test_stream_that_breaks_goes_on_at_another_replica_without_a_piece_twice() -> None:
    text = "one two three four five"
    broken = Reply(text=text, break_after=2)
    with StubSkill(broken) as first, StubSkill(text) as second, client_of(first, second) as client:
        for _ in range(2):
            pieces = [chunk.text for chunk in client.GenerateStream(REQUEST, timeout=10)]
            assert "".join(pieces) == text
        (resumed,) = [request for request in second.requests if request.continuations]
        (begun,) = first.requests
    assert resumed.seed == begun.seed
    assert len(resumed.continuations[0].token_ids) == 2


def test_unary_answer_that_breaks_does_not_begin_anew() -> None:
    text = "one two three four five"
    slow = Reply(text=text, break_after=3, chunk_delay_s=1.2 * HOLD_S)
    with StubSkill(slow) as first, StubSkill(text) as second:
        with client_of(first, second) as client:
            answer = client.Generate(REQUEST, timeout=10)
        (resumed,) = second.requests
    assert (answer.text, answer.tokens_generated) == (text, 5)
    assert len(resumed.continuations[0].token_ids) == 3


def test_short_answer_to_a_unary_call_is_one_message() -> None:
    text = "one two three four five"
    with StubSkill(text) as skill, client_of(skill) as client:
        stream = client.GenerateStream(REQUEST, 10.0, metadata=(FEW_PIECES,))
        (only,) = stream
        assert (only.text, only.result.text, len(only.token_ids)) == (text, text, 5)
        assert len(list(client.GenerateStream(REQUEST, timeout=10))) == 6, "whoever reads the pieces gets them all"


def test_time_budget_that_is_spent_is_not_given_to_the_next_replica() -> None:
    broken = Reply(text="one two three", break_after=1, delay_s=0.4)
    with StubSkill(broken) as first, StubSkill("one two three") as second, client_of(first, second) as client:
        client.Generate(skills_pb2.GenReq(prompt="x", time_budget_ms=5_000), timeout=10)
        assert second.requests[0].time_budget_ms <= 4_600


def test_async_stream_goes_on_at_another_replica() -> None:
    text = "one two three four"

    async def use(made: ReplicaSet) -> str:
        async with AsyncSkillClient(made) as client:
            return "".join([chunk.text async for chunk in client.GenerateStream(REQUEST, timeout=10)])

    with StubSkill(Reply(text=text, break_after=2)) as first, StubSkill(text) as second:
        with replicas(first.target, second.target) as made:
            assert asyncio.run(use(made)) == text
        assert (served(first), served(second)) == (1, 1)


def test_calls_are_spread_by_outstanding_work() -> None:
    slow = Reply(text="yes", delay_s=0.3)
    with StubSkill(slow) as one, StubSkill(slow) as two, StubSkill(slow) as three:
        with client_of(one, two, three) as client, ThreadPoolExecutor(9) as threads:
            requests = [skills_pb2.GenReq(prompt=str(number)) for number in range(9)]
            list(threads.map(lambda request: client.Generate(request, timeout=10), requests))
        assert [served(one), served(two), served(three)] == [3, 3, 3]


def test_slow_replica_is_avoided() -> None:
    with StubSkill(Reply(text="yes", delay_s=0.5)) as slow, StubSkill(Reply(text="yes", delay_s=0.01)) as fast:
        with client_of(slow, fast) as client, ThreadPoolExecutor(2) as threads:
            requests = [skills_pb2.GenReq(prompt=str(number)) for number in range(60)]
            list(threads.map(lambda request: client.Generate(request, timeout=10), requests))
        assert served(slow) <= 4, f"{served(slow)} calls went to the slow one, {served(fast)} to the fast one"


def test_conversation_stays_where_it_is() -> None:
    with StubSkill() as one, StubSkill() as two, StubSkill() as three, client_of(one, two, three) as client:
        for name in "abcdef":
            turns = [skills_pb2.Message(role="user", content=f"I am {name}")]
            for said in ("Hello", "Who?", "Bye"):
                request = skills_pb2.GenReq(messages=turns)
                answer = client.Generate(request, timeout=10)
                turns += [
                    skills_pb2.Message(role="assistant", content=answer.text),
                    skills_pb2.Message(role="user", content=said),
                ]
        homes = Counter(
            (request.messages[0].content, skill.target) for skill in (one, two, three) for request in skill.requests
        )
    assert sorted(homes.values()) == [3] * 6, homes


def test_conversation_moves_where_its_home_is_much_busier() -> None:
    released = threading.Event()

    def script(request: skills_pb2.GenReq) -> Answer:
        if request.prompt == "block":
            released.wait(10)
        return "yes"

    with StubSkill(script) as one, StubSkill(script) as two, client_of(one, two) as client:

        def ask(prompt: str) -> skills_pb2.GenResp:
            return client.Generate(skills_pb2.GenReq(system="same", prompt=prompt), timeout=20)

        ask("first")
        with ThreadPoolExecutor(3) as threads:
            blocked = [threads.submit(ask, "block") for _ in range(3)]
            until(lambda: served(one) + served(two) == 4)
            assert min(served(one), served(two)) >= 1, "two of them are at the other replica at the latest"
            released.set()
            assert all(each.result().text == "yes" for each in blocked)


def test_replica_that_does_not_serve_gets_no_new_call() -> None:
    with StubSkill("one") as one, StubSkill("two") as two, client_of(one, two) as client:
        client.Generate(REQUEST, timeout=10)
        for away, there in ((one, two), (two, one)):
            there.set_serving(True)
            away.set_serving(False)
            until(lambda away=away: "down" in _state(client, away))  # type: ignore[misc]
            until(lambda there=there: "serving" in _state(client, there))  # type: ignore[misc]
            before = served(away)
            for number in range(4):
                client.Generate(skills_pb2.GenReq(prompt=str(number)), timeout=10)
            assert served(away) == before


def test_replica_that_drains_gets_no_new_call_though_it_finishes_what_it_has() -> None:
    slow = Reply(text="one two three", chunk_delay_s=0.3)
    with StubSkill(slow) as draining, StubSkill("yes") as well, client_of(draining, well) as client:
        with client.GenerateStream(REQUEST, timeout=20) as stream:
            next(stream)
            assert served(draining) == 1
            draining.set_serving(False)
            until(lambda: _state(client, draining) == "down")
            assert "".join(chunk.text for chunk in stream) == " two three"
        for number in range(3):
            assert client.Generate(skills_pb2.GenReq(prompt=str(number)), timeout=10).text == "yes"
        assert served(draining) == 1


def _state(client: SkillClient, skill: StubSkill) -> str:
    return _state_at(client, skill.target)


def _state_at(client: SkillClient, target: str) -> str:
    (state,) = [each.state for each in client._wire.pool.status().replicas if each.target == target]
    return state


def test_replica_that_is_back_is_used_again() -> None:
    with StubSkill("one") as one:
        two = StubSkill("two").start()
        with client_of(one, two) as client:
            two.stop()
            for number in range(4):
                assert client.Generate(skills_pb2.GenReq(prompt=str(number)), timeout=10).text == "one"
            two.start()
            until(lambda: "serving" in _state(client, two))
            one.stop()
            assert client.Generate(REQUEST, timeout=10).text == "two"
            two.stop()


def deadly(skills: list[StubSkill]) -> Callable[[skills_pb2.GenReq], Answer]:
    """A script that ends its server, a moment after the request has come."""

    def die(_: skills_pb2.GenReq) -> Answer:
        threading.Timer(0.3, skills.pop(0).stop).start()
        time.sleep(1.0)
        return "too late"

    return die


def test_request_that_two_replicas_died_with_is_not_tried_on_a_third() -> None:
    dying: list[StubSkill] = []
    die = deadly(dying)
    with StubSkill(die) as one, StubSkill(die) as two, StubSkill("yes") as three:
        dying += [one, two]
        with client_of(one, two, three) as client:
            with pytest.raises(UnavailableError, match="2 replicas died") as caught:
                client.Generate(REQUEST, timeout=20)
            assert one.target in str(caught.value)
            assert two.target in str(caught.value)
            assert served(three) == 0
            assert client.Generate(skills_pb2.GenReq(prompt="another"), timeout=10).text == "yes"


def test_connections_that_break_are_no_deaths() -> None:
    broken = Failure(code=grpc.StatusCode.UNAVAILABLE, details="Socket closed")
    with (
        StubSkill([broken, "one"]) as one, StubSkill([broken, "two"]) as two, StubSkill([broken, "three"]) as three,
        client_of(one, two, three) as client,
    ):  # fmt: skip
        assert client.Generate(REQUEST, timeout=20).text in ("one", "two", "three")


def test_full_replica_is_passed_over_and_its_hint_is_kept_to() -> None:
    full = Failure(code=FULL, retry_after_s=0.5)
    with StubSkill([full, *["one"] * 9]) as one, StubSkill("two") as two, client_of(one, two) as client:
        until(lambda: client.Generate(REQUEST, timeout=10).text != "" and served(one) > 0, 2)
        (first,) = one.calls
        while served(one) < 2:
            client.Generate(skills_pb2.GenReq(prompt=str(time.monotonic())), timeout=10)
        assert one.calls[1].arrived_s - first.arrived_s >= 0.5


def test_call_waits_as_long_as_all_replicas_ask_for() -> None:
    full = Failure(code=FULL, retry_after_s=0.6)
    with StubSkill([full, "one"]) as one, StubSkill([full, "two"]) as two, client_of(one, two) as client:
        started_s = time.monotonic()
        assert client.Generate(REQUEST, timeout=10).text in ("one", "two")
        assert time.monotonic() - started_s >= 0.6


def test_wait_that_does_not_fit_the_deadline_is_told_at_once() -> None:
    full = Failure(code=FULL, retry_after_s=30.0)
    with StubSkill(full) as one, StubSkill(full) as two, client_of(one, two) as client:
        started_s = time.monotonic()
        with pytest.raises(OverloadedError) as caught:
            client.Generate(REQUEST, timeout=5)
        assert caught.value.retry_after_s == 30.0
        assert time.monotonic() - started_s < 2


def test_line_of_waiting_calls_is_bounded() -> None:
    full = Failure(code=FULL, retry_after_s=2.0)
    with StubSkill(full) as skill, client_of(skill, queue_limit=1) as client, ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(client.Generate, REQUEST, 3.0)
        until(lambda: client._wire.pool.waiting == 1)
        with pytest.raises(OverloadedError, match="wait for a replica already"):
            client.Generate(REQUEST, timeout=10)
        with pytest.raises(OverloadedError):
            waiting.result()


def test_callers_take_turns() -> None:
    order: list[str] = []
    opened = threading.Event()

    def script(request: skills_pb2.GenReq) -> Answer:
        if not opened.is_set():
            opened.set()
            return Failure(code=FULL, retry_after_s=0.7)
        order.append(request.prompt)
        return "yes"

    def ask(client: SkillClient, prompt: str) -> None:
        client.Generate(skills_pb2.GenReq(prompt=prompt), timeout=20)

    with StubSkill(script) as skill, replicas(skill.target) as made, ThreadPoolExecutor(8) as threads:
        greedy, modest = SkillClient(made, caller="greedy"), SkillClient(made, caller="modest")
        calls = []
        for number in range(6):
            calls.append(threads.submit(ask, greedy, f"greedy {number}"))
            until(lambda number=number: made.waiting == number + 1)  # type: ignore[misc]
        calls.append(threads.submit(ask, modest, "modest"))
        for call in calls:
            call.result()
        greedy.close()
        modest.close()
    # The first one alone, as the replica had no room for more; then two, which may meet on their way.
    assert order.index("modest") <= 2, order


def test_who_waits_for_a_full_replica_does_so_in_the_pool() -> None:
    room, lock = 3, threading.Lock()
    running = most = refused = 0

    def script(_: skills_pb2.GenReq) -> Answer:
        nonlocal running, most, refused
        with lock:
            if running >= room:
                refused += 1
                return Failure(code=FULL, retry_after_s=0.1)
            running += 1
            most = max(most, running)
        time.sleep(0.05)
        with lock:
            running -= 1
        return "yes"

    with StubSkill(script) as skill, client_of(skill) as client, ThreadPoolExecutor(10) as threads:
        requests = [skills_pb2.GenReq(prompt=str(number)) for number in range(96)]
        answers = list(threads.map(lambda request: client.Generate(request, timeout=20), requests))
    assert {answer.text for answer in answers} == {"yes"}
    assert most == room, "as many as it has room for"
    assert refused <= 24, f"{refused} calls were sent away, where a crowd would be at each of them"


def test_call_that_gets_no_room_in_time_is_told_so() -> None:
    slow = Reply(text="yes", delay_s=1.5)
    script: list[Answer] = [Failure(code=FULL, retry_after_s=0.1), slow, slow]
    with StubSkill(script) as skill, client_of(skill) as client, ThreadPoolExecutor(1) as threads:
        first = threads.submit(client.Generate, REQUEST, 10.0)
        until(lambda: served(skill) == 2)
        started_s = time.monotonic()
        with pytest.raises(OverloadedError, match="no replica has room in time"):
            client.Generate(skills_pb2.GenReq(prompt="another"), timeout=0.5)
        assert 0.4 < time.monotonic() - started_s < 1.4
        assert first.result().text == "yes"


def test_call_at_a_replica_that_is_leaving_goes_on_elsewhere_when_it_is_silent() -> None:
    text = "one two three"
    slow = Reply(text=text, chunk_delay_s=0.5)
    with (
        StubSkill(slow) as skill, FaultProxy(skill.target) as proxy, StubSkill(text) as other,
        replicas(proxy.target) as made, SkillClient(made) as client,
    ):  # fmt: skip
        with client.GenerateStream(REQUEST, timeout=30) as stream:
            pieces = [next(stream).text]
            made.tell(Targets([other.target]))
            proxy.cut_off()
            pieces += [chunk.text for chunk in stream]
        assert "".join(pieces) == text
        assert len(other.requests) == 1


def test_replica_that_fails_again_and_again_is_left_out_for_a_while() -> None:
    broken = Failure(code=grpc.StatusCode.INTERNAL)
    with (
        StubSkill(broken) as bad, StubSkill("one") as one, StubSkill("two") as two,
        client_of(bad, one, two) as client,
    ):  # fmt: skip
        failed = 0
        for number in range(60):
            try:
                client.Generate(skills_pb2.GenReq(prompt=str(number)), timeout=10)
            except SkillFailedError:
                failed += 1
        assert failed == served(bad) == EJECT_AFTER
        assert _state(client, bad) == "ejected"


@pytest.mark.parametrize("streamed", [False, True])
def test_failures_with_a_success_between_are_not_in_a_row(streamed: bool) -> None:
    failures = [Failure(code=grpc.StatusCode.INTERNAL)] * (EJECT_AFTER - 1)
    with StubSkill([*failures, "yes", *failures]) as skill, client_of(skill) as client:
        for number in range(2 * EJECT_AFTER - 1):
            with contextlib.nullcontext() if number == EJECT_AFTER - 1 else pytest.raises(SkillFailedError):
                if streamed:
                    stream = client.GenerateStream(REQUEST, timeout=10)
                    assert any(chunk.HasField("result") for chunk in stream), "not read beyond its result"
                    stream.close()
                else:
                    assert client.Generate(REQUEST, timeout=10).text == "yes"
        assert _state(client, skill) == "serving"


def _break_off(client: SkillClient) -> None:
    """As where a connection was found dead."""
    pool = client._wire.pool
    pool.tell(Probed(pool.replicas[0], since_s=time.monotonic(), connection_dead=True))
    pool.tell(HealthTold(pool.replicas[0], serving=True))


def test_connections_that_were_given_up_leave_no_descriptor() -> None:
    def descriptors() -> int:
        gc.collect()
        return len(list(Path("/proc/self/fd").iterdir()))

    # In another process, so that what is counted here is the client's.
    with process("--reply", "one two three") as skill, client_of(skill.target) as client:
        client.Generate(REQUEST, timeout=10)
        before = descriptors()
        for _ in range(10):
            _break_off(client)  # the next call connects anew
            with client.GenerateStream(REQUEST, timeout=10) as stream:
                next(stream)
            client.Generate(REQUEST, timeout=10)
        until(lambda: descriptors() <= before)


def test_unary_call_that_was_answered_is_not_cancelled() -> None:
    with StubSkill("yes") as skill, client_of(skill) as client:
        for _ in range(20):
            client.Generate(REQUEST, timeout=10)
        until(lambda: all(call.ended.is_set() for call in skill.calls))
        assert not any(call.cancelled for call in skill.calls)


def test_below_half_of_the_replicas_nobody_is_left_out() -> None:
    broken = Failure(code=grpc.StatusCode.INTERNAL)
    with StubSkill(broken) as one, StubSkill(broken) as two, client_of(one, two) as client:
        for number in range(4 * EJECT_AFTER):
            with pytest.raises(SkillFailedError):
                client.Generate(skills_pb2.GenReq(prompt=str(number)), timeout=10)


def test_all_replicas_down_is_told_with_each_of_them() -> None:
    targets = [f"127.0.0.1:{free_port()}" for _ in range(3)]
    with client_of(*targets) as client:
        started_s = time.monotonic()
        with pytest.raises(UnavailableError) as caught:
            client.Generate(REQUEST, timeout=3)
        assert time.monotonic() - started_s < 3
    assert all(target in str(caught.value) for target in targets)
    assert "onnect" in str(caught.value)


def test_deadline_holds_while_a_call_waits() -> None:
    skill = StubSkill("yes").start()
    with client_of(skill) as client:
        client.Generate(REQUEST, timeout=10)
        skill.stop()
        started_s = time.monotonic()
        with pytest.raises((UnavailableError, DeadlineError)):
            client.Generate(REQUEST, timeout=1)
        assert time.monotonic() - started_s < 1.5


def test_address_that_goes_gets_no_new_call_and_one_that_comes_gets_some() -> None:
    with StubSkill("one") as one, StubSkill("two") as two, replicas(one.target) as made, SkillClient(made) as client:
        assert client.Generate(REQUEST, timeout=10).text == "one"
        made.tell(Targets([two.target]))
        assert client.Generate(REQUEST, timeout=10).text == "two"
        made.tell(Targets([]))
        assert client.Generate(REQUEST, timeout=10).text == "two", "nothing found is no reason to have nobody"


def test_budget_of_retries_is_a_fifth_of_the_calls_and_three() -> None:
    budget = RetryBudget()
    for _ in range(10):
        budget.call()
    free = [budget.spend(7.0) for _ in range(int(FLOOR) + 2)]
    assert free == [0.0] * 5
    assert [budget.spend(7.0) for _ in range(3)] == [0.0, 1.0, 2.0], "what is over it trickles, one a second"
    assert [budget.spend(7.0, most_s=1.0) for _ in range(9)] == [3.0] * 9
    assert budget.spend(7.0) == 3.0, "who cannot wait takes nobody's place"


def test_closing_a_client_ends_its_calls_with_one_of_our_errors() -> None:
    def ask(client: SkillClient) -> SaraiError:
        while True:
            try:
                client.Generate(REQUEST, timeout=10)
                list(client.GenerateStream(REQUEST, timeout=10))
                client.Health(timeout=10)
            except SaraiError as error:
                return error

    with StubSkill("a b") as one, StubSkill("a b") as two, ThreadPoolExecutor(6) as threads:
        for number in range(30):
            with replicas(one.target, two.target) as made:
                client = SkillClient(made)
                asking = [threads.submit(ask, client) for _ in range(6)]
                time.sleep(0.001 * number)
                client.close()
                assert {type(each.result(5)) for each in asking} <= {CallCancelledError, PoolClosedError}
                assert not made.outstanding


def test_closing_an_async_client_ends_its_calls_and_not_the_tasks_that_made_them() -> None:
    async def ask(client: AsyncSkillClient) -> SaraiError:
        while True:
            try:
                await client.Generate(REQUEST, timeout=10)
                assert [chunk async for chunk in client.GenerateStream(REQUEST, timeout=10)]
                await client.Health(timeout=10)
            except SaraiError as error:
                return error

    async def use(*targets: str) -> None:
        for number in range(30):
            with replicas(*targets) as made:
                client = AsyncSkillClient(made)
                asking = [asyncio.create_task(ask(client)) for _ in range(6)]
                await asyncio.sleep(0.001 * number)
                await client.close()
                errors = await asyncio.wait_for(asyncio.gather(*asking), 5)
                assert {type(error) for error in errors} <= {CallCancelledError, PoolClosedError}
                assert not made.outstanding

    with StubSkill("a b") as one, StubSkill("a b") as two:
        asyncio.run(use(one.target, two.target))


def test_hung_replica_is_left_and_its_call_goes_on() -> None:
    text = "one two three four"
    with process("--reply", text) as hung, StubSkill(text) as well, client_of(hung.target, well) as client:
        client.Generate(REQUEST, timeout=10)
        hung.process.send_signal(signal.SIGSTOP)
        started_s = time.monotonic()
        for number in range(3):
            request = skills_pb2.GenReq(prompt=f"x{number}")
            assert client.Generate(request, timeout=30).text == text
            assert "".join(chunk.text for chunk in client.GenerateStream(request, timeout=30)) == text
        assert client.Health(timeout=30).status == "SERVING"
        assert time.monotonic() - started_s < 15
        hung.process.send_signal(signal.SIGCONT)
        until(lambda: _state_at(client, hung.target) == "serving", 15)


@pytest.mark.parametrize("replicas_behind", [1, 2])
def test_call_on_a_dead_connection_goes_on_over_a_new_one(replicas_behind: int) -> None:
    text = "one two three four"
    slow = Reply(text=text, chunk_delay_s=0.3)
    with contextlib.ExitStack() as stack:
        skills = [stack.enter_context(StubSkill(slow)) for _ in range(replicas_behind)]
        proxies = [stack.enter_context(FaultProxy(skill.target)) for skill in skills]
        client = stack.enter_context(client_of(*(proxy.target for proxy in proxies)))
        with client.GenerateStream(REQUEST, timeout=40) as stream:
            pieces = [next(stream).text]
            for proxy in proxies:
                proxy.cut_off()
            time.sleep(0.5)
            for proxy in proxies:
                proxy.heal()
            pieces += [chunk.text for chunk in stream]
        assert "".join(pieces) == text
        started_s = time.monotonic()
        assert client.Generate(REQUEST, timeout=30).text == text
        assert time.monotonic() - started_s < 10

    async def use(made: ReplicaSet, proxies: list[FaultProxy]) -> str:
        async with AsyncSkillClient(made) as client, client.GenerateStream(REQUEST, timeout=40) as stream:
            pieces = [(await anext(stream)).text]
            for proxy in proxies:
                proxy.cut_off()
                await asyncio.sleep(0.5)
                proxy.heal()
            return "".join([*pieces, *[chunk.text async for chunk in stream]])

    with StubSkill(slow) as skill, FaultProxy(skill.target) as proxy, replicas(proxy.target) as made:
        assert asyncio.run(use(made, [proxy])) == text
