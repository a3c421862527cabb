"""The supervisor carries out its state's decisions with real processes, which die, freeze and fail to start."""

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
from typing import Self

import pytest

from skills.runtime.patience import TICK_S
from skills.skill_draft import supervisor, supervisor_state
from skills.skill_draft.awaited_flight import AwaitedFlight
from skills.skill_draft.engine.messages import Done, EngineConfig, Failed, FailureKind, Piece, Request
from skills.skill_draft.engine_process import EngineProcess
from skills.skill_draft.supervisor import Supervisor
from skills.skill_draft.supervisor_state import State
from tests import scripted_engine

STEP_TIMEOUT_S = 0.8
PATIENT_S = 1.5  # leaves a busy machine some time between an event and the limit
ENDLESS = 1_000_000  # tokens


@pytest.fixture(autouse=True, scope="module")
def quick_restarts() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(supervisor_state, "RESTART_DELAY_S", (0.0, 0.0, 0.05))
        yield


async def ignore(_: State) -> None:
    """Do nothing: these tests do not follow the state."""


class House:
    """A supervisor over scripted engines, and the callers of its requests."""

    def __init__(self, step_timeout_s: float = STEP_TIMEOUT_S, idle_s: float = 0.0) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.runner = asyncio.Runner()
        self.supervisor = Supervisor(
            EngineConfig(model=str(self.folder)), step_timeout_s=step_timeout_s, start_timeout_s=30, on_state=ignore,
            engine_module=scripted_engine.MODULE, idle_s=idle_s,
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
        """Send the engine a signal. The supervisor waits for dead engines, so the pid is no other process's."""
        if self.supervisor.state is State.SERVING:
            os.kill(self.engine, signal_)

    def stop_together(self) -> None:
        """Stop engine and server for longer than a server with `PATIENT_S` tolerates an engine's silence."""
        self.signal_engine(signal.SIGSTOP)
        self.for_a_while(1.2 * TICK_S)  # the server checks the engine at least once meanwhile
        time.sleep(1.2 * PATIENT_S)
        self.for_a_while(0.1)  # the server resumes first
        assert self.supervisor.state is State.SERVING
        self.signal_engine(signal.SIGCONT)

    def break_launches(self, how: str) -> None:
        (self.folder / "broken").write_text(how)

    def mend_launches(self) -> None:
        (self.folder / "broken").unlink(missing_ok=True)

    def comes_to_rest(self) -> None:
        """Check that every call ends, a new one is answered, and the engine is idle then."""
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


class Call:
    """One caller, which collects what it receives."""

    def __init__(self, supervisor: Supervisor, flight: AwaitedFlight) -> None:
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


def test_a_request_that_was_given_up_while_no_engine_started_holds_up_nobody_later() -> None:
    with House() as house:
        call = house.call(max_tokens=ENDLESS)
        house.wait(lambda: call.tokens, "it writes")
        house.break_launches("refuses")
        house.signal_engine(signal.SIGKILL)
        house.wait(lambda: house.supervisor.state is State.DOWN, "two launches fail")
        assert isinstance(call.end, Failed)
        assert call.end.kind is FailureKind.UNAVAILABLE
        house.comes_to_rest()


def test_engine_and_server_that_were_stopped_together_go_on_together() -> None:
    with House(PATIENT_S) as house:
        pid, call = house.engine, house.call(max_tokens=100)
        house.wait(lambda: call.tokens, "it writes")
        house.stop_together()
        house.wait(lambda: call.end, "it ends")
        assert (house.engine, house.supervisor.restarts) == (pid, 0)
        assert isinstance(call.end, Done)


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
    """Make each engine that is killed from outside count as killed for want of memory."""
    monkeypatch.setattr(supervisor, "memory_kills", itertools.count().__next__)


@pytest.mark.usefixtures("the_kernel_counts")
def test_an_engine_killed_for_want_of_memory_is_nobodys_fault_and_the_next_one_is_smaller() -> None:
    with House() as house:
        calls = [house.call("LARGE3"), house.call(), house.call("LARGE2")]
        house.wait(lambda: all(call.end for call in calls), "they end")
        assert [type(call.end) for call in calls] == [Done] * 3
        assert house.supervisor.sizing.kills == 3
        assert "memory ran out 3 times" in house.supervisor.sizing.note


def test_a_kill_that_the_kernel_does_not_count_makes_no_engine_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "memory_kills", lambda: 7)
    with House() as house:
        house.signal_engine(signal.SIGKILL)
        house.wait(lambda: house.supervisor.restarts, "it is replaced")
        house.comes_to_rest()
        assert (house.supervisor.sizing.kills, house.supervisor.sizing.note) == (0, "")


@pytest.fixture
def too_many_processes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Have as many starts of engine processes fail as the list has errors."""
    errors: list[str] = []
    start = EngineProcess.start

    async def start_or_fail(module: str, numerics: str) -> EngineProcess:
        if errors:
            raise BlockingIOError(errors.pop())
        return await start(module, numerics)

    monkeypatch.setattr(EngineProcess, "start", start_or_fail)
    return errors


def test_requests_resume_though_the_next_engine_cannot_be_started_at_once(too_many_processes: list[str]) -> None:
    with House() as house:
        call = house.call(max_tokens=200)
        too_many_processes.append("Resource temporarily unavailable")
        house.signal_engine(signal.SIGKILL)
        house.wait(lambda: call.end, "it ends")
        assert isinstance(call.end, Done)
        assert too_many_processes == []


def test_an_engine_wakes_though_none_could_be_started_to_wait_for_its_model(too_many_processes: list[str]) -> None:
    with House(idle_s=0.2) as house:
        too_many_processes.append("Resource temporarily unavailable")
        house.wait(lambda: not too_many_processes, "it rests, and the start fails")
        call = house.call()
        house.wait(lambda: call.end, "it ends")
        assert isinstance(call.end, Done)
        assert house.supervisor.restarts == 0
