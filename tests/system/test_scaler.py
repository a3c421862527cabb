"""The autoscaler next to replicas that are faulty, silent or on their way out, with real servers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from core.config import PoolConfig
from core.scaling import policy
from core.scaling.looking import keep_looking
from core.scaling.replicas import Running
from core.scaling.samples import Limits
from core.scaling.scaler import Scaler
from skills.types_pb2 import Load
from tests.stub_plugin import free_port, stub_spec
from tests.stub_skill import StubSkill

NAN, INFINITY = math.nan, math.inf


class Stubs:
    """Makes stub servers come and go: an `Actuator`."""

    starting = draining = failed_starts = 0

    def __init__(self) -> None:
        self.servers: list[StubSkill] = []
        self.silent: list[str] = []
        self.started, self.told_to_drain = 0, list[str]()
        self._stack = ExitStack()

    def add(self, **health: Any) -> StubSkill:
        server = self._stack.enter_context(StubSkill())
        server.tell(**health)
        self.servers.append(server)
        return server

    def replicas(self) -> list[Running]:
        targets = [*(server.target for server in self.servers), *self.silent]
        return [Running(id=target, name=target, target=target) for target in targets]

    def start(self, count: int) -> None:
        self.started += count

    def drain(self, id_: str) -> None:
        self.told_to_drain.append(id_)

    def close(self) -> None:
        self._stack.close()


@pytest.fixture
def stubs() -> Iterator[Stubs]:
    made = Stubs()
    yield made
    made.close()


def scaler(stubs: Stubs, **limits: int) -> Scaler:
    return Scaler(stub_spec(), PoolConfig(), stubs, Limits(**limits))


@pytest.mark.parametrize(
    "false",
    [
        {"load": Load(work_arrived_s=NAN)},
        {"load": Load(work_done_s=INFINITY)},
        {"load": Load(work_ahead_s=-1.0, prompt_token_ms=1.0)},
        {"load": Load(expected_wait_s=NAN)},
        {"load": Load(prompts_waiting=-3)},
        {"ram_mb": NAN},
        {"ram_mb": INFINITY},
        {"uptime_s": NAN},
        {"queued_requests": -1},
    ],
)
def test_figures_that_cannot_be_true_make_a_replica_silent_and_poison_nothing(
    false: dict[str, Any], stubs: Stubs, caplog: pytest.LogCaptureFixture
) -> None:
    stubs.add()
    faulty = stubs.add()
    ours = scaler(stubs, low=2, high=4)
    assert ours.look().there == 2
    faulty.tell(**false)
    for _ in range(2):
        step = ours.look()
        assert (step.event, step.there, step.decision.load) == ("hold", 2, 0)
    assert [record.message for record in caplog.records] == [
        f"{faulty.target} reports figures that cannot be true, and counts as silent"
    ]
    faulty.tell()
    assert ours.look().decision.load == 0
    assert (stubs.started, stubs.told_to_drain) == (0, [])


def test_a_replica_that_drains_by_itself_is_not_told_to_once_more(stubs: Stubs) -> None:
    ours = scaler(stubs, high=1)
    going = stubs.add(status="DRAINING")
    others = [stubs.add(), stubs.add()]
    step = ours.look()
    assert (step.event, step.there) == ("drain", 2)
    assert stubs.told_to_drain == list(step.names)
    assert {*step.names} < {other.target for other in others}
    stubs.servers.remove(going)
    others[0].tell(status="DRAINING")
    ours.look()
    assert ours._sample().failed_starts == 0, "one that was going away at the first look has not failed to start"


def test_one_that_could_not_be_told_to_go_counts_again(stubs: Stubs) -> None:
    ours = scaler(stubs, high=1)
    stubs.add(), stubs.add()
    first, second = ours.look(), ours.look()
    assert [(step.event, step.there) for step in (first, second)] == [("drain", 2)] * 2


def test_one_that_does_not_serve_in_time_is_drained_and_counts_as_one_failed_start(stubs: Stubs) -> None:
    loading = stubs.add(status="LOADING")
    ours = Scaler(stub_spec(), PoolConfig(startup_timeout_s=1e-9), stubs, Limits(low=1))
    ours.look()
    ours.look()
    assert (stubs.told_to_drain, ours._sample().failed_starts) == ([loading.target], 1)
    stubs.servers.clear()
    ours.look()
    assert ours._sample().failed_starts == 1


def test_a_full_memory_takes_no_replica_away_while_one_is_silent_or_starts(stubs: Stubs) -> None:
    much = 1e6  # a terabyte each, which leaves room for no other one
    stubs.add(ram_mb=much), stubs.add(ram_mb=much)
    ours = scaler(stubs, low=2, high=4)
    assert ours.look().there == 2
    stubs.servers.pop().stop()
    stubs.silent.append(f"127.0.0.1:{free_port()}")
    stubs.add(status="LOADING", ram_mb=1.0)
    for _ in range(2):
        step = ours.look()
        assert step.event != "drain", step
    assert stubs.told_to_drain == []


def test_what_fails_is_logged_once_and_the_next_look_begins_anew(
    stubs: Stubs, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    stubs.add()
    ours = scaler(stubs, low=1)
    told: list[str] = []
    choose = policy._choose

    def fail_by_what_is_remembered(state: policy.State, *arguments: Any) -> Any:
        if len(state.past) == 2:
            raise ZeroDivisionError("float division by zero")
        return choose(state, *arguments)

    monkeypatch.setattr(policy, "_choose", fail_by_what_is_remembered)
    looks = iter(range(5))
    keep_looking(ours.look, lambda step: told.append(step.event), lambda _: next(looks) == 4)
    assert told == ["hold"] * 3, "the second and the fourth look fail"
    logged = [record.message for record in caplog.records]
    assert logged == ["the number of replicas stays as it is: float division by zero"] * 2


def test_equal_errors_that_follow_one_another_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    errors = ["the engine restarts", "the engine restarts", "it is away", "it is away"]

    def look() -> None:
        raise RuntimeError(errors.pop(0))

    keep_looking(look, lambda _: None, lambda _: not errors)
    assert [record.message.partition(": ")[2] for record in caplog.records] == ["the engine restarts", "it is away"]


def test_output_that_cannot_be_written_ends_it(stubs: Stubs) -> None:
    stubs.add()

    def tell(_: object) -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        scaler(stubs, low=1).run(tell, lambda _: False)
