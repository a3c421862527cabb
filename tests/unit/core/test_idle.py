from __future__ import annotations

import threading
import time

from core.local.idle import IdleTimer


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "sarai-idle"]


def test_it_speaks_once_after_the_last_use_and_has_a_thread_only_while_it_runs() -> None:
    spoke: list[float] = []
    done = threading.Event()

    def speak() -> None:
        assert timer.claim()
        spoke.append(time.monotonic())
        done.set()

    timer = IdleTimer(0.2, speak)
    assert threads() == []
    timer.start()
    timer.start()
    assert len(threads()) == 1
    (thread,) = (thread for thread in threading.enumerate() if thread.name == "sarai-idle")
    timer.begin()
    assert not done.wait(0.5)
    timer.end()
    ended = time.monotonic()
    assert done.wait(5)
    assert spoke[0] - ended >= 0.2
    thread.join(5)
    assert threads() == []
    assert len(spoke) == 1


def test_it_speaks_again_where_the_claim_came_too_late() -> None:
    refused, claimed = threading.Event(), threading.Event()

    def speak() -> None:
        if not refused.is_set():
            timer.begin()  # a use that begins at the last moment
            assert not timer.claim()
            timer.end()
            refused.set()
        elif timer.claim():
            claimed.set()

    timer = IdleTimer(0.05, speak)
    timer.start()
    assert claimed.wait(5)
    assert refused.is_set()


def test_stopped_or_without_a_time_it_never_speaks() -> None:
    spoke = threading.Event()
    stopped, never = IdleTimer(0.1, spoke.set), IdleTimer(0.0, spoke.set)
    stopped.start()
    never.start()
    stopped.stop()
    assert not stopped.claim()
    assert not never.claim()
    assert not spoke.wait(0.3)
    assert threads() == []
