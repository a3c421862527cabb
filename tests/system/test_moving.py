"""A call whose prompt waits behind another one moves to a replica that reads none; real servers, scripted answers."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

from skills import skills_pb2
from tests.stub_skill import Reply, StubSkill
from tests.system.test_replicas import client_of, until

TEXT = "one two three"
LONG_S, SHORT_S = 5.0, 0.6


class Reader:
    """What a replica does that reads prompts one after the other: behind a long one, all are late."""

    def __init__(self) -> None:
        self.busy = False

    def __call__(self, request: skills_pb2.GenReq) -> Reply:
        self.busy |= request.prompt == "long"
        return Reply(text=TEXT, delay_s=LONG_S if self.busy else 0.0 if request.prompt == "first" else SHORT_S)


def test_call_behind_a_long_prompt_moves_once_and_its_caller_sees_each_piece_once() -> None:
    readers = Reader(), Reader()
    with StubSkill(readers[0]) as one, StubSkill(readers[1]) as two, client_of(one, two) as client:

        def ask(prompt: str) -> list[str]:
            return [chunk.text for chunk in client.GenerateStream(skills_pb2.GenReq(prompt=prompt), timeout=20)]

        whole = ask("first")
        assert "".join(whole) == TEXT
        began_s, arrived = time.monotonic(), 1
        with ThreadPoolExecutor(4) as callers:
            answers = {}
            for prompt in ("long", "other", "third", "fourth"):  # two for each replica
                answers[prompt] = callers.submit(ask, prompt)
                arrived += 1
                until(lambda count=arrived: len(one.calls) + len(two.calls) == count)  # type: ignore[misc]
            assert [answers[prompt].result() for prompt in ("other", "third", "fourth")] == [whole] * 3
            assert time.monotonic() - began_s < LONG_S - 1
            assert (client.stats().moves, client.stats().failovers) == (1, 0)
            (moved,) = [
                call for call in (one if readers[0].busy else two).calls if call.request.prompt in "thirdfourth"
            ]
            assert moved.ended.wait(5)
            assert moved.cancelled, "the replica that it has left does not go on with it"
            assert answers["long"].result() == whole
