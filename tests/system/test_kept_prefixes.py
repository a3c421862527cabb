"""A server that is started again, or next to another one, has the prefixes that requests shared before."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from skills import skills_pb2
from tests.servers import DraftServer, draft_server

SYSTEM = "Count to five. Who are you? " * 12
BLOCK = 32


def ask(server: DraftServer, prompt: str, *, bypass: bool = False) -> skills_pb2.GenResp:
    request = skills_pb2.GenReq(system=SYSTEM, prompt=prompt, max_tokens=16, temperature=0, top_logprobs=2)
    if bypass:
        request.cache.mode = skills_pb2.CACHE_MODE_BYPASS
    return server.stub.Generate(request, timeout=60)


def known(answer: skills_pb2.GenResp) -> tuple[str, list[int], list[float]]:
    return answer.text, list(answer.token_ids), list(answer.token_logprobs)


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.kv"))


def wait_for_files(folder: Path) -> list[Path]:
    """Wait until there are files and no more of them come."""
    end, before = time.monotonic() + 30, list[Path]()
    while time.monotonic() < end:
        time.sleep(0.5)
        if before and files(folder) == before:
            return before
        before = files(folder)
    raise AssertionError("nothing is written")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "prefixes"


@pytest.fixture(scope="module")
def cold(tmp_path_factory: pytest.TempPathFactory) -> skills_pb2.GenResp:
    with draft_server(tmp_path_factory.mktemp("cold")) as server:
        return ask(server, "Say hello.")


def test_a_restarted_server_and_a_second_replica_are_warm_with_the_same_bits(
    folder: Path, tmp_path: Path, cold: skills_pb2.GenResp
) -> None:
    with draft_server(tmp_path, "--prefix-dir", str(folder)) as server:
        for prompt in ("Who are you?", "Count to twenty."):
            assert ask(server, prompt).cached_tokens < 2 * BLOCK or prompt == "Count to twenty."
        wait_for_files(folder)
        with draft_server(tmp_path, "--prefix-dir", str(folder)) as replica:
            second = ask(replica, "Say hello.")
        os.kill(server.engine_pid(), signal.SIGKILL)
        after_crash = ask(server, "Say hello.")
    with draft_server(tmp_path, "--prefix-dir", str(folder)) as server:
        restarted = ask(server, "Say hello.")
    for answer in (second, after_crash, restarted):
        assert known(answer) == known(cold)
        assert answer.cached_tokens == BLOCK * len(files(folder)) > 2 * BLOCK


def test_what_is_still_to_be_written_is_written_when_the_server_ends(folder: Path, tmp_path: Path) -> None:
    with draft_server(tmp_path, "--prefix-dir", str(folder)) as server:
        ask(server, "Who are you?")
        wait_for_hashes(folder)
        ask(server, "Count to twenty.")
    assert len(files(folder)) > 2


def wait_for_hashes(folder: Path) -> None:
    end = time.monotonic() + 30
    while not (folder / "hashes.json").exists():
        assert time.monotonic() < end, "the identity is never known"
        time.sleep(0.05)


def test_killed_while_writing_the_next_server_reads_nothing_half(
    folder: Path, tmp_path: Path, cold: skills_pb2.GenResp
) -> None:
    for attempt in range(4):
        with draft_server(tmp_path, "--prefix-dir", str(folder)) as server:
            assert known(ask(server, "Say hello.")) == known(cold)
            wait_for_hashes(folder)
            for prompt in ("Who are you?", "Count to twenty."):
                ask(server, f"{attempt} {prompt}")
            time.sleep(0.004 * attempt)
            server.process.kill()


def test_a_request_that_bypasses_the_cache_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    with draft_server(tmp_path, "--prefix-dir", str(folder)) as server:
        wait_for_hashes(folder)
        for prompt in ("Who are you?", "Count to twenty."):
            ask(server, prompt, bypass=True)
        time.sleep(1.0)
    assert not files(folder)


def test_without_a_usable_folder_one_line_says_so_and_answers_are_the_same(
    tmp_path: Path, cold: skills_pb2.GenResp
) -> None:
    (tmp_path / "open").mkdir(mode=0o777)
    (tmp_path / "open").chmod(0o777)
    with draft_server(tmp_path, "--prefix-dir", str(tmp_path / "open")) as server:
        for _ in range(2):
            assert known(ask(server, "Say hello.")) == known(cold)
        wait_for_hashes(tmp_path / "open")
        time.sleep(0.5)
        lines = [line for line in server.log.read_text().splitlines() if "no prefixes are kept" in line]
    assert len(lines) == 1, server.log.read_text()
