"""Many short requests with cancellations: nothing leaks, and no answers are mixed up.

SARAI_SOAK_REQUESTS sets their number (`make soak` sends 10,000); CI runs a short form.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from skills import skills_pb2
from skills.runtime.resources import anonymous_bytes
from tests.servers import DraftServer, draft_server

REQUESTS = int(os.environ.get("SARAI_SOAK_REQUESTS", "1500"))
CONCURRENCY = 16
SLOPE_BYTES = 1024  # growth per request after the warm-up


@pytest.fixture
def server(tmp_path: Path) -> Iterator[DraftServer]:
    with draft_server(tmp_path, "--n-ctx", "512", "--kv-cells", "2048", "--threads", "1") as running:
        yield running


def open_files(pid: int) -> int:
    """Return the number of file descriptors that a process holds."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def one(server: DraftServer, number: int) -> str:
    """Send one request with a nonce that only its own answer may contain; return how it ended."""
    rng = random.Random(number)
    nonce = f"{rng.randrange(10**8):08d}"
    shared = "Count to five. " * rng.choice((0, 4, 20))
    request = skills_pb2.GenReq(
        prompt=f"{shared} Say {nonce}.",
        grammar=f'root ::= "<{nonce}>"' if rng.random() < 0.7 else "",
        seed=number,
        temperature=rng.choice((0.0, 1.0)),
        max_tokens=rng.choice((4, 16, 40)),
        num_candidates=rng.choice((1, 1, 1, 3)),
        priority=rng.choice((skills_pb2.PRIORITY_INTERACTIVE, skills_pb2.PRIORITY_BATCH)),
    )
    stream = server.stub.GenerateStream(request, timeout=60)
    texts, leave_after = ["", "", ""], rng.choice((None, None, None, 0, 1, 3))
    try:
        for i, chunk in enumerate(stream):
            texts[chunk.candidate] += chunk.text
            if leave_after is not None and i >= leave_after:
                stream.cancel()
                return "left"
            if request.grammar:
                assert f"<{nonce}>".startswith(texts[chunk.candidate]), "the answer has another request's text"
    except grpc.RpcError as error:
        if error.code() != grpc.StatusCode.RESOURCE_EXHAUSTED:
            raise
        time.sleep(0.02)
        return "refused"
    return "answered"


@pytest.mark.timeout(900)
def test_many_requests_leave_nothing_behind(server: DraftServer) -> None:
    pids = [server.process.pid, server.engine_pid()]
    warm_up = 4000  # caches of pieces, buffers, prefixes and compiled grammars are filled by then
    with ThreadPoolExecutor(CONCURRENCY) as pool:
        list(pool.map(lambda n: one(server, n), range(warm_up)))
        server.wait_idle()
        before, handles = anonymous_bytes(pids), open_files(pids[0])
        fates = list(pool.map(lambda n: one(server, warm_up + n), range(REQUESTS)))
    health = server.wait_idle()
    grown = anonymous_bytes(pids) - before
    counts = {fate: fates.count(fate) for fate in sorted(set(fates))}
    print(f"{REQUESTS} requests: {counts}, {grown / REQUESTS:.0f} bytes a request")
    assert counts["answered"] > REQUESTS / 3
    assert counts["left"] > REQUESTS / 10
    assert grown / REQUESTS <= SLOPE_BYTES
    assert health.engine.restarts == 0
    assert health.engine.kv_cells_used <= health.engine.kv_cells
    assert open_files(pids[0]) <= handles + 4
    assert server.stub.Generate(skills_pb2.GenReq(prompt="Say hello.", temperature=0), timeout=10).text == "hello"
