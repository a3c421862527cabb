"""Replicas that others start are on their way until they are listed, or for too long."""

from __future__ import annotations

from core.scaling.server import START_S, Starts


def test_what_is_wanted_and_not_listed_is_on_its_way_until_that_takes_too_long() -> None:
    starts = Starts()
    starts.wanted(3)
    assert [starts.starting(there, 10.0 * there) for there in (1, 2, 3)] == [2, 1, 0]
    starts.wanted(4)
    assert (starts.starting(3, 1000.0), starts.starting(3, 1000.0 + START_S), starts.failed) == (1, 1, 0)
    assert (starts.starting(3, 1001.0 + START_S), starts.failed) == (0, 1)
    starts.wanted(4)
    assert starts.starting(3, 1002.0 + START_S) == 1, "it is tried again"


def test_one_that_goes_away_long_after_its_start_is_on_its_way_back() -> None:
    starts = Starts()
    starts.wanted(2)
    assert (starts.starting(0, 0.0), starts.starting(2, 5.0)) == (2, 0)
    later_s = 100 * START_S
    assert (starts.starting(1, later_s), starts.failed) == (1, 0), "the number must not fall meanwhile"


def test_wanting_more_gives_time_anew_and_wanting_fewer_takes_none() -> None:
    starts = Starts()
    starts.wanted(2)
    assert starts.starting(1, 0.0) == 1
    starts.wanted(3)
    assert (starts.starting(1, START_S + 1), starts.failed) == (2, 0)
    starts.wanted(1)
    assert (starts.starting(1, START_S + 2), starts.failed) == (0, 0)
