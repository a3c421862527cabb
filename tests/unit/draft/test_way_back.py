"""How much time before its deadline an answer needs to reach the caller, as learned."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from skills.runtime.round_trip import round_trip_s
from skills.runtime.way_back import LEAST_SHARE_S, MOST_DELAY_S, REMEMBERED_S, WayBack, sent_late_s
from skills.skill_draft.awaited_flight import AwaitedFlight
from skills.skill_draft.engine.messages import Done, Request
from skills.skill_draft.last_moment import LastMoment

NO_WIRE = "unix:"


@pytest.mark.parametrize("peer", [NO_WIRE, "unix:/run/x.sock", "nonsense", ""])
def test_where_there_is_no_wire_there_is_no_round_trip(peer: str) -> None:
    assert round_trip_s(peer) == 0


def test_delays_are_remembered_for_a_while() -> None:
    way = WayBack()
    quiet_s = way.needs_s(NO_WIRE, 5.0)
    assert quiet_s == pytest.approx(2 * LEAST_SHARE_S + sent_late_s(5.0))
    way.note_delay(0.2, now=100.0)
    way.note_delay(0.001, now=100.1)
    assert way.needs_s(NO_WIRE, 5.0) == pytest.approx(quiet_s + 2 * (0.2 - LEAST_SHARE_S), rel=0.05)
    way.note_delay(0.001, now=100.0 + 5 * REMEMBERED_S)
    assert way.needs_s(NO_WIRE, 5.0) == quiet_s


def test_process_that_was_frozen_does_not_cost_later_calls_their_time() -> None:
    way = WayBack()
    way.note_delay(3600.0, now=1.0)
    assert way.needs_s(NO_WIRE, 60.0) <= 2 * MOST_DELAY_S + sent_late_s(60.0)
    assert way.needs_s(NO_WIRE, 1.0) == 0.25


class _AtOnce(asyncio.SelectorEventLoop):
    """An event loop in virtual time: when all tasks wait, it jumps to the next timeout."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        select = self._selector.select  # type: ignore[attr-defined]

        def jump(timeout: float | None) -> Any:
            self._now += timeout or 0.0
            return select(0)

        self._selector.select = jump  # type: ignore[attr-defined]

    def time(self) -> float:
        return self._now


@pytest.mark.parametrize(("timeout_s", "busy_at_s"), [(1.0, 0.5), (10.0, 9.0)])
def test_machine_that_gets_busy_near_the_deadline_is_allowed_for(timeout_s: float, busy_at_s: float) -> None:
    way, flight = WayBack(), AwaitedFlight(Request(id=1, deadline=timeout_s))
    flight.texts = ["some"]

    async def ends_at() -> float:
        loop = asyncio.get_running_loop()
        loop.call_at(busy_at_s, way.note_delay, 0.1, busy_at_s)
        with LastMoment(flight, way, NO_WIRE):
            assert [type(event) async for event in flight.events()] == [Done]
        return loop.time()

    with asyncio.Runner(loop_factory=_AtOnce) as runner:
        ended_s = runner.run(ends_at())
    assert ended_s == pytest.approx(timeout_s - sent_late_s(timeout_s) - 2 * 0.1, abs=0.03)
