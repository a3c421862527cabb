"""Whatever happens to engines, every request ends or goes on, and in the end nothing is suspected."""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import pytest
from hypothesis import settings, strategies
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from skills.runtime.patience import TICK_S
from skills.skill_draft import sizing
from skills.skill_draft import supervisor as module
from skills.skill_draft.engine.messages import Done, EngineConfig, Failed, FailureKind, Piece, Request
from skills.skill_draft.flight import Flight
from skills.skill_draft.supervisor import State, Supervisor
from tests import scripted_engine

STEP_TIMEOUT_S = 0.8
PATIENT_S = 1.5  # leaves a busy machine time between what counts and the limit
ENDLESS = 1_000_000  # tokens


@pytest.fixture(autouse=True, scope="module")
def quick_restarts() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "RESTART_DELAY_S", (0.0, 0.0, 0.05))
        yield


async def ignore(_: State) -> None:
    """Nobody asks."""


class House:
    """A supervisor over scripted engines, and the callers of its requests."""

    def __init__(self, step_timeout_s: float = STEP_TIMEOUT_S) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.runner = asyncio.Runner()
        self.supervisor = Supervisor(
            EngineConfig(model=str(self.folder)), step_timeout_s=step_timeout_s, start_timeout_s=30, on_state=ignore,
            engine_module=scripted_engine.MODULE,
        )  # fmt: skip
        self.calls: list[Call] = []
        self.runner.run(self.supervisor.start())

    def close(self) -> None:
        self.runner.run(self.supervisor.close())
        self.runner.close()
        shutil.rmtree(self.folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def call(self, text: str = "write", max_tokens: int = 10) -> Call:
        async def submit() -> Call:
            request = Request(id=self.supervisor.next_id(), raw=text, max_tokens=max_tokens)
            return Call(self.supervisor, self.supervisor.submit(request))

        call = self.runner.run(submit())
        self.calls.append(call)
        return call

    def wait(self, until: Callable[[], object], what: str, timeout_s: float = 20) -> None:
        async def wait() -> None:
            end = time.monotonic() + timeout_s
            while not until():
                assert time.monotonic() < end, f"never: {what}"
                await asyncio.sleep(0.005)

        self.runner.run(wait())

    def for_a_while(self, seconds: float) -> None:
        self.runner.run(asyncio.sleep(seconds))

    @property
    def engine(self) -> int:
        return self.supervisor.pids[1]

    def signal_engine(self, signal_: signal.Signals) -> None:
        """Dead ones are waited for, so the number is nobody else's."""
        if self.supervisor.state is State.SERVING:
            os.kill(self.engine, signal_)

    def stop_together(self) -> None:
        """The engine and the server, for longer than a patient server lets an engine be silent."""
        self.signal_engine(signal.SIGSTOP)
        self.for_a_while(1.2 * TICK_S)  # long enough for the server to have looked in vain
        time.sleep(1.2 * PATIENT_S)
        self.for_a_while(0.1)  # the server is the first to go on
        assert self.supervisor.state is State.SERVING
        self.signal_engine(signal.SIGCONT)

    def break_launches(self, how: str) -> None:
        (self.folder / "broken").write_text(how)

    def mend_launches(self) -> None:
        (self.folder / "broken").unlink(missing_ok=True)

    def comes_to_rest(self) -> None:
        """All that was asked ends, what is asked then is answered, and the engine works for nobody else."""
        self.mend_launches()
        for call in self.calls:
            if call.flight.request.max_tokens == ENDLESS:
                self.runner.run(call.leave())
        self.wait(lambda: all(call.end for call in self.calls), "every call ends")
        self.wait(lambda: self.supervisor.state is State.SERVING, "an engine is there again")
        last = self.call()
        self.wait(lambda: last.end, "a new request is answered")
        assert isinstance(last.end, Done), last.end
        self.wait(lambda: not self.supervisor.stats.active, "the engine is idle")
        assert not self.supervisor._replay.active  # what would make the next request wait


class Call:
    """One caller, who checks what comes."""

    def __init__(self, supervisor: Supervisor, flight: Flight) -> None:
        self._supervisor, self.flight = supervisor, flight
        self.tokens: list[int] = []
        self.end: Done | Failed | str | None = None
        self._task = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        try:
            async for event in self.flight.events():
                if isinstance(event, Piece):
                    self.tokens += event.tokens.token_ids
                elif isinstance(event, Done | Failed):
                    self.end = event
        finally:
            self._supervisor.leave(self.flight)
            self.end = self.end or "left"

    async def leave(self) -> None:
        self._task.cancel()
        await asyncio.wait({self._task})


class EnginesDie(RuleBasedStateMachine):
    """Engines die, freeze and do not start, in any order, while requests come and go."""

    def __init__(self) -> None:
        super().__init__()
        self.house = House()

    @rule(text=strategies.sampled_from(["write", "write", "SLOW", "SLOW", "KILL", "LATER", "HANG"]),
          max_tokens=strategies.sampled_from([1, 5, 200, ENDLESS, ENDLESS]))  # fmt: skip
    def submit(self, text: str, max_tokens: int) -> None:
        self.house.call(text, max_tokens)

    @precondition(lambda self: any(not call.end for call in self.house.calls))
    @rule(data=strategies.data())
    def leave(self, data: Any) -> None:
        running = [call for call in self.house.calls if not call.end]
        self.house.runner.run(data.draw(strategies.sampled_from(running)).leave())

    @rule(steps=strategies.sampled_from([0, 1, 5, 40]))
    def time_passes(self, steps: int) -> None:
        self.house.for_a_while(steps * scripted_engine.STEP_S)

    @rule()
    def die(self) -> None:
        self.house.signal_engine(signal.SIGKILL)

    @rule()
    def freeze(self) -> None:
        self.house.signal_engine(signal.SIGSTOP)

    @rule(how=strategies.sampled_from(["refuses", "dies"]))
    def launches_fail(self, how: str) -> None:
        self.house.break_launches(how)

    @rule()
    def launches_work(self) -> None:
        self.house.mend_launches()

    @precondition(lambda self: any(not call.end for call in self.house.calls))
    @rule()
    def an_engine_dies_for_good(self) -> None:
        self.house.break_launches("refuses")
        self.house.signal_engine(signal.SIGKILL)
        self.house.wait(lambda: all(call.end for call in self.house.calls), "every call ends without an engine")

    @invariant()
    def no_token_is_lost_or_repeated(self) -> None:
        for call in self.house.calls:
            assert call.tokens == list(range(len(call.tokens)))

    @invariant()
    def a_deadly_request_has_no_answer(self) -> None:
        for call in self.house.calls:
            deadly = call.flight.request.raw in ("KILL", "LATER", "HANG") and call.flight.request.max_tokens > 2
            assert not (deadly and isinstance(call.end, Done))

    def teardown(self) -> None:
        try:
            self.house.comes_to_rest()
        finally:
            self.house.close()


EnginesDie.TestCase.settings = settings(max_examples=12, stateful_step_count=12, deadline=None, derandomize=True)
TestEnginesDie = EnginesDie.TestCase


def test_a_request_that_was_given_up_while_no_engine_started_holds_up_nobody_later() -> None:
    with House() as house:
        call = house.call(max_tokens=ENDLESS)
        house.wait(lambda: call.tokens, "it writes")
        house.break_launches("refuses")
        house.signal_engine(signal.SIGKILL)
        house.wait(lambda: house.supervisor.state is State.NOT_SERVING, "two launches fail")
        assert isinstance(call.end, Failed)
        assert call.end.kind is FailureKind.UNAVAILABLE
        house.comes_to_rest()


def test_callers_who_leave_while_no_engine_is_there_leave_nothing_to_do() -> None:
    with House() as house:
        calls = [house.call(max_tokens=ENDLESS) for _ in range(2)]
        house.wait(lambda: all(call.tokens for call in calls), "they write")
        house.signal_engine(signal.SIGKILL)
        house.wait(lambda: house.supervisor.state is State.RECOVERING, "the engine is missed")
        house.comes_to_rest()


def test_engine_and_server_that_were_stopped_together_go_on_together() -> None:
    with House(PATIENT_S) as house:
        pid, call = house.engine, house.call(max_tokens=100)
        house.wait(lambda: call.tokens, "it writes")
        house.stop_together()
        house.wait(lambda: call.end, "it ends")
        assert (house.engine, house.supervisor.restarts) == (pid, 0)
        assert isinstance(call.end, Done)


def test_an_intake_that_was_stopped_together_with_the_server_is_not_stuck() -> None:
    with House(PATIENT_S) as house:
        house.call("HANG")
        house.wait(lambda: house.supervisor.stats.intake_busy_since, "the intake is busy")
        house.stop_together()
        assert not house.supervisor.restarts
        house.wait(lambda: house.supervisor.restarts, "but it is, if it goes on for as long while they run")


def test_what_a_departed_request_does_is_blamed_on_nobody_else() -> None:
    with House() as house:
        hangs = house.call("HANG")
        house.wait(lambda: house.supervisor.restarts == 1, "the first engine is killed")
        house.wait(lambda: house.supervisor.stats.intake_busy_since, "the second one hangs too")
        innocent = house.call()
        house.runner.run(hangs.leave())
        house.wait(lambda: innocent.end, "it ends")
        assert isinstance(innocent.end, Done)
        house.comes_to_rest()


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (lambda house: house.signal_engine(signal.SIGKILL), "SIGKILL, perhaps out of memory"),
        (lambda house: house.signal_engine(signal.SIGABRT), "SIGABRT"),
        (lambda house: house.signal_engine(signal.SIGSTOP), "killed: no step for"),
        (lambda house: house.call("KILL"), "exit code 9"),
    ],
)
def test_the_log_says_how_an_engine_ended(
    harm: Callable[[House], object], says: str, caplog: pytest.LogCaptureFixture
) -> None:
    with House() as house:
        harm(house)
        house.wait(lambda: house.supervisor.restarts, "it is replaced")
    (line,) = [r.getMessage() for r in caplog.records if "the engine process is gone" in r.getMessage()][:1]
    assert says in line


@pytest.fixture
def the_kernel_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every engine that was killed from outside was killed for want of memory."""
    monkeypatch.setattr(sizing, "memory_kills", itertools.count().__next__)


@pytest.mark.usefixtures("the_kernel_counts")
def test_an_engine_killed_for_want_of_memory_is_nobodys_fault_and_the_next_one_is_smaller() -> None:
    with House() as house:
        calls = [house.call("LARGE3"), house.call(), house.call("LARGE2")]
        house.wait(lambda: all(call.end for call in calls), "they end")
        assert [type(call.end) for call in calls] == [Done] * 3
        assert house.supervisor.sizing.kills == 3
        assert "memory ran out 3 times" in house.supervisor.sizing.note


@pytest.mark.usefixtures("the_kernel_counts")
def test_a_request_that_no_engine_is_small_enough_for_is_given_up_and_the_others_are_not() -> None:
    with House() as house:
        calls = [house.call("LARGE99"), house.call()]
        house.wait(lambda: all(call.end for call in calls), "they end")
        assert [type(call.end) for call in calls] == [Failed, Done]
        assert house.supervisor.sizing.kills == sizing.MOST_STEPS + 1
        house.comes_to_rest()


def test_a_kill_that_the_kernel_does_not_count_makes_no_engine_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizing, "memory_kills", lambda: 7)
    with House() as house:
        house.signal_engine(signal.SIGKILL)
        house.wait(lambda: house.supervisor.restarts, "it is replaced")
        house.comes_to_rest()
        assert (house.supervisor.sizing.kills, house.supervisor.sizing.note) == (0, "")


@pytest.mark.usefixtures("the_kernel_counts")
def test_another_limit_makes_the_next_engine_choose_its_sizes_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    with House() as house:
        house.call("LARGE1")
        house.wait(lambda: house.supervisor.sizing.note, "a smaller engine is ready")
        config = EngineConfig(model="any")
        assert house.supervisor.sizing.of_next(config).memory_kills == 1
        assert house.supervisor.sizing.of_next(config).sizes is not None
        monkeypatch.setattr(sizing, "memory_limit", lambda: 4 << 30)
        assert house.supervisor.sizing.of_next(config) == config
