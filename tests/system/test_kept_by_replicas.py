"""Answers that outlive the replica that computed them: real servers, a real store, a file."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from skills import skills_pb2
from tests.servers import ROOT, DraftServer, draft_server
from tests.store_server import StoreServer

HIT, MISS = skills_pb2.CACHE_OUTCOME_HIT, skills_pb2.CACHE_OUTCOME_MISS
DISK, SHARED = skills_pb2.CACHE_TIER_DISK, skills_pb2.CACHE_TIER_SHARED


@pytest.fixture
def store(tmp_path: Path) -> Iterator[StoreServer]:
    (tmp_path / "secret").write_bytes(b"a secret of sixteen bytes\n")
    with StoreServer(tmp_path) as server:
        yield server


def settings(folder: Path, store: StoreServer) -> tuple[str, ...]:
    secret = str(folder / "secret")
    return ("--cache-mb", "16", "--threads", "1", "--cache-shared", store.url, "--cache-secret-file", secret)


def ask(server: DraftServer, seed: int, max_tokens: int = 24) -> skills_pb2.GenResp:
    return server.stub.Generate(skills_pb2.GenReq(prompt="a cat", seed=seed, max_tokens=max_tokens), timeout=30)


def bits(answer: skills_pb2.GenResp) -> tuple[str, list[int], list[float]]:
    return answer.text, list(answer.token_ids), list(answer.token_logprobs)


def wait_connected(*servers: DraftServer) -> None:
    end_s = time.monotonic() + 20
    while any(server.health().cache.shared != "up" for server in servers):
        assert time.monotonic() < end_s
        time.sleep(0.02)


def test_another_replica_gives_the_same_bits_and_clear_forgets_them_everywhere(
    tmp_path: Path, store: StoreServer
) -> None:
    given = settings(tmp_path, store)
    with draft_server(tmp_path, *given) as one, draft_server(tmp_path, *given) as other:
        wait_connected(one, other)
        computed = ask(one, 1)
        assert computed.cache.outcome == MISS
        while not store.client().keys():
            time.sleep(0.01)
        kept = ask(other, 1)
        assert (kept.cache.outcome, kept.cache.tier) == (HIT, SHARED)
        assert bits(kept) == bits(computed)
        command = [sys.executable, "-m", "sarai", "cache", "clear", "--target", f"{one.target},{other.target}"]
        cleared = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
        assert cleared.stdout.count("forgot 1 answer,") == 2
        assert not store.client().keys()
        again = ask(other, 1)
        assert again.cache.outcome == MISS
        assert bits(again) == bits(computed)


def test_a_store_that_is_paused_in_mid_run_changes_and_loses_no_answer(tmp_path: Path, store: StoreServer) -> None:
    with draft_server(tmp_path, *settings(tmp_path, store)) as server:
        wait_connected(server)
        computed = [bits(ask(server, seed)) for seed in range(20)]
        store.pause()
        try:
            for seed in range(20, 26):
                assert ask(server, seed).cache.outcome == MISS
            assert server.health().cache.shared == "it did not answer within 20 ms"
            assert [bits(ask(server, seed)) for seed in range(20)] == computed
        finally:
            store.resume()
        wait_connected(server)


def test_a_server_that_was_killed_finds_its_answers_on_disk(tmp_path: Path) -> None:
    given = ("--cache-mb", "16", "--cache-disk", str(tmp_path / "answers"), "--threads", "1")
    with draft_server(tmp_path, *given) as server:
        computed = [bits(ask(server, seed)) for seed in range(10)]
        time.sleep(0.5)  # they are written in the background
        server.process.kill()
    with draft_server(tmp_path, *given) as server:
        kept = [ask(server, seed) for seed in range(10)]
        assert [bits(answer) for answer in kept] == computed
        assert {(answer.cache.outcome, answer.cache.tier) for answer in kept} == {(HIT, DISK)}
        assert server.health().cache.disk_hits == 10
