"""An engine without requests ends; its server stays, and the next call wakes it."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from skills import skills_pb2
from tests.servers import DraftServer, draft_server

MOST_MB = 60.0
"""Memory of a server whose engine rests."""
REQUEST = skills_pb2.GenReq(prompt="The rain in Spain", max_tokens=8, temperature=0, raw=True)


def rests(server: DraftServer) -> int:
    """Return how often the engine has gone to rest."""
    return server.log.read_text().count("the engine ends until the next request")


def wait_until_it_rests(server: DraftServer, times: int = 1) -> None:
    """Wait until it has, and the next one waits for its model."""
    end = time.monotonic() + 20
    while rests(server) < times or server.health().ram_mb > MOST_MB:
        assert time.monotonic() < end
        time.sleep(0.02)


def test_the_next_calls_wake_an_engine_that_rests_and_get_the_same_answer(tmp_path: Path) -> None:
    with draft_server(tmp_path, "--engine-idle-s", "0.5", "--mmproj", "off") as server:
        first = server.stub.Generate(REQUEST, timeout=20)
        wait_until_it_rests(server)
        health = server.health()
        assert (health.status, health.engine.restarts, health.load.work_ahead_s) == ("SERVING", 0, 0)
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda _: server.stub.Generate(REQUEST, timeout=20), range(4)))
        assert {answer.text for answer in answers} == {first.text}
        woken = server.health()
        assert woken.engine.restarts == 0
        assert woken.load.work_done_s >= health.load.work_done_s
        wait_until_it_rests(server, 2)


def test_a_server_that_is_told_to_end_while_its_engine_rests_ends(tmp_path: Path) -> None:
    with draft_server(tmp_path, "--engine-idle-s", "0.2", "--mmproj", "off") as server:
        wait_until_it_rests(server)
        server.process.terminate()
        assert server.process.wait(10) == 0
