"""A replica tells how much work it has, in seconds of its own time."""

from __future__ import annotations

import os
import signal
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest

from skills import skills_pb2, types_pb2
from tests.servers import DraftServer, draft_server, free_port

TEXT = "The rain in Spain stays mainly in the plain. " * 12


def ask(server: DraftServer, text: str = "", max_tokens: int = 64, **fields: Any) -> skills_pb2.GenResp:
    request = skills_pb2.GenReq(prompt=text or TEXT, max_tokens=max_tokens, temperature=0, raw=True, **fields)
    return server.stub.Generate(request, timeout=60)


def wait_for(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


def at_rest(server: DraftServer) -> types_pb2.Load:
    wait_for(lambda: server.health().load.idle_s > 0.6)  # an engine at rest has told of itself since
    return server.health().load


def test_load_is_told_in_work_and_is_nothing_at_rest(tmp_path: Path) -> None:
    metrics = f"127.0.0.1:{free_port()}"
    with draft_server(tmp_path, "--slots", "2", "--metrics", metrics) as server, ThreadPoolExecutor(8) as pool:
        assert 0 < server.health().load.start_s < 60
        for n in range(3):
            ask(server, f"{n}: Before. {TEXT}", 400)  # it learns how long answers get, and what tokens cost
        before = at_rest(server)
        assert (before.work_ahead_s, before.expected_wait_s, before.prefill_tokens_waiting) == (0, 0, 0)
        answers = [pool.submit(ask, server, f"{n}: {TEXT}", 400) for n in range(8)]
        seen = []
        while not all(answer.done() for answer in answers):
            seen.append(server.health().load)
            time.sleep(0.005)
        assert max(load.work_ahead_s for load in seen) > 0
        assert max(load.expected_wait_s for load in seen) > 0, "two slots, eight calls"
        assert max(load.prefill_tokens_waiting for load in seen) > 0
        after = at_rest(server)
        assert (after.work_ahead_s, after.expected_wait_s, after.prefill_tokens_waiting) == (0, 0, 0)

        told = [answer.result() for answer in answers]
        read = sum(each.prompt_tokens - each.cached_tokens for each in told)
        written = sum(each.tokens_generated for each in told)
        # What tokens cost changes with what else the machine does.
        loads = [before, *seen, after]
        costs = [sorted(map(attrgetter(name), loads)) for name in ("prompt_token_ms", "output_token_ms")]
        least, most = ((read * costs[0][i] + written * costs[1][i]) / 1000 for i in (0, -1))
        assert 0.3 * least < after.work_done_s - before.work_done_s < 1.7 * most
        assert 0.3 * least < after.work_arrived_s - before.work_arrived_s < 1.7 * most
        with urllib.request.urlopen(f"http://{metrics}/metrics", timeout=20) as page:
            lines = dict(line.rsplit(" ", 1) for line in page.read().decode().splitlines() if line[0] != "#")
        assert float(lines["sarai_draft_work_done_seconds_total"]) == pytest.approx(after.work_done_s, rel=1e-3)
        assert float(lines["sarai_draft_prompt_token_seconds"]) == pytest.approx(after.prompt_token_ms / 1000, rel=1e-3)


def test_what_the_prefix_cache_saves_is_no_work(tmp_path: Path) -> None:
    with draft_server(tmp_path) as server:
        ask(server, max_tokens=1)
        first = at_rest(server)
        ask(server, max_tokens=1)
        second = at_rest(server)
        assert second.work_arrived_s - first.work_arrived_s < first.work_arrived_s / 4
        assert second.work_done_s - first.work_done_s < first.work_done_s / 4


def test_the_death_of_the_engine_resets_no_counter(tmp_path: Path) -> None:
    with draft_server(tmp_path) as server, ThreadPoolExecutor(1) as pool:
        ask(server)
        before = at_rest(server)
        # By itself it would end after 43 tokens, before anybody has seen the work.
        answer = pool.submit(ask, server, "Again: " + TEXT, 600, regex="[a-z ]{5000}", lookup=False)
        wait_for(lambda: server.health().load.work_ahead_s > 0)
        os.kill(server.engine_pid(), signal.SIGKILL)
        while not answer.done():
            load = server.health().load
            assert load.work_done_s >= before.work_done_s
            assert load.work_arrived_s >= before.work_arrived_s
            assert load.idle_s < 0.1
        assert answer.result().tokens_generated
        after = at_rest(server)
        assert after.work_done_s > before.work_done_s
        assert after.work_ahead_s == 0
