"""How fast replicas are compared with each other."""

from __future__ import annotations

import pytest

from core.pool.latency import FORGOTTEN_S, Fastest, LatencyAverage

NOW = 1000.0


def _average(*calls: tuple[float, int], noted_s: float = NOW, first_s: float = 0.01) -> LatencyAverage:
    """Return the average of calls, each (seconds, tokens), whose first pieces came after `first_s`."""
    average = LatencyAverage()
    for seconds, tokens in calls:
        average.note(seconds, tokens, first_s, noted_s)
    return average


def test_replica_with_clearly_longer_tokens_is_slower() -> None:
    slow, fast = _average((1.0, 10)), _average((0.1, 10))
    fastest = Fastest([slow, fast])
    assert slow.slower(fastest, 0.0, NOW) == pytest.approx(10.0)
    assert fast.slower(fastest, 0.0, NOW) == 1.0


def test_differences_like_those_of_prompts_do_not_count() -> None:
    one, other = _average((0.19, 10)), _average((0.1, 10))
    assert one.slower(Fastest([one, other]), 0.0, NOW) == 1.0


def test_answer_of_one_token_says_little() -> None:
    long, mixed = _average(*[(1.0, 100)] * 5), _average(*[(1.0, 100)] * 5, (0.3, 1))
    assert mixed.slower(Fastest([long, mixed]), 0.0, NOW) == 1.0


def test_replica_that_nobody_called_for_long_is_not_the_faster_for_it() -> None:
    idle, busy = _average((1.0, 10), noted_s=NOW - 4 * FORGOTTEN_S), _average((1.0, 10))
    fastest = Fastest([idle, busy])
    assert busy.slower(fastest, 0.0, NOW) == idle.slower(fastest, 0.0, NOW) == 1.0


def test_slow_one_is_tried_again_after_a_while() -> None:
    slow, fast = _average((1.0, 10), noted_s=NOW - 6 * FORGOTTEN_S), _average((0.1, 10))
    assert slow.slower(Fastest([slow, fast]), 0.0, NOW) == 1.0


def test_silence_is_compared_with_the_wait_at_the_fastest_replica() -> None:
    one, other = _average((1.0, 10), first_s=0.1), _average((1.0, 10), first_s=0.1)
    fastest = Fastest([one, other])
    assert one.slower(fastest, 0.15, NOW) == 1.0
    assert one.slower(fastest, 1.0, NOW) == pytest.approx(10.0)


def test_some_milliseconds_of_silence_say_nothing() -> None:
    one, other = _average((0.01, 10), first_s=0.001), _average((0.01, 10), first_s=0.001)
    assert one.slower(Fastest([one, other]), 0.05, NOW) == 1.0


def test_silence_says_nothing_before_anybody_has_answered() -> None:
    new = LatencyAverage()
    assert new.slower(Fastest([new, LatencyAverage()]), 3.0, NOW) == 1.0
