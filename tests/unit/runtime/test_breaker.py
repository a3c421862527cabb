"""A store is passed over after three failures in a row, and probed less and less often."""

from __future__ import annotations

from skills.runtime.answer_cache.breaker import FIRST_PAUSE_S, MOST_PAUSE_S, Breaker


def closed(now_s: float = 0.0) -> Breaker:
    breaker = Breaker()
    breaker.close(now_s)
    return breaker


def test_nothing_is_asked_before_the_first_probe() -> None:
    assert Breaker().reason


def test_three_failures_in_a_row_open_it() -> None:
    breaker = closed()
    assert [breaker.failed("late", 1.0) for _ in range(4)] == [False, False, True, False]
    assert breaker.reason == "late"


def test_a_reply_in_between_starts_the_count_anew() -> None:
    breaker = closed()
    for _ in range(10):
        breaker.failed("late", 1.0)
        breaker.failed("late", 1.0)
        breaker.succeeded()
    assert not breaker.reason


def test_pauses_grow_and_a_stable_while_makes_them_short_again() -> None:
    breaker = closed()
    pauses = [breaker.next_pause_s() for _ in range(10)]
    assert pauses[0] == FIRST_PAUSE_S
    assert pauses == sorted(pauses)
    assert pauses[-1] == MOST_PAUSE_S
    for after_s, pause_s in ((10.0, MOST_PAUSE_S), (100.0, FIRST_PAUSE_S)):
        breaker.close(0.0)
        for _ in range(3):
            breaker.failed("late", after_s)
        assert breaker.next_pause_s() == pause_s
