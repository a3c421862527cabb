"""A server that is started again, or next to another one, has the prefixes that requests shared before."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import grpc
import pytest

from skills import skills_pb2
from skills.types_pb2 import ClearCacheReq
from tests.own_disk import own_disk
from tests.servers import ROOT, DraftServer, draft_server

SYSTEM = "Count to five. Who are you? " * 12
BLOCK = 32
FULL = "400k"


def ask(server: DraftServer, prompt: str, *, system: str = SYSTEM, bypass: bool = False) -> skills_pb2.GenResp:
    request = skills_pb2.GenReq(system=system, prompt=prompt, max_tokens=16, temperature=0, top_logprobs=2)
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


def lines_with(server: DraftServer, text: str) -> list[str]:
    return [line for line in server.log.read_text().splitlines() if text in line]


def wait_for_line(server: DraftServer, text: str) -> None:
    end = time.monotonic() + 30
    while not lines_with(server, text):
        assert time.monotonic() < end, server.log.read_text()
        time.sleep(0.05)


def test_a_read_only_folder_is_read_and_one_line_says_that_nothing_is_written(
    folder: Path, tmp_path: Path, cold: skills_pb2.GenResp
) -> None:
    with draft_server(tmp_path, "--prefix-dir", str(folder)) as server:
        for prompt in ("Who are you?", "Count to twenty."):
            ask(server, prompt)
        before = wait_for_files(folder)
    with draft_server(tmp_path, "--prefix-dir", str(folder), module=own_disk(folder, "ro")) as server:
        answer = ask(server, "Say hello.")
        assert known(answer) == known(cold)
        assert answer.cached_tokens == BLOCK * len(before)
        for number in range(2):  # prefixes that are not there yet
            for prompt in ("Who are you?", "Count to twenty."):
                ask(server, prompt, system=f"{number} {SYSTEM}")
            wait_for_line(server, "Read-only file system")
        os.kill(server.engine_pid(), signal.SIGKILL)
        assert ask(server, "Say hello.").cached_tokens == BLOCK * len(before)
        assert len(lines_with(server, "prefixes are not kept at the moment")) == 1
        with pytest.raises(grpc.RpcError) as refused:
            server.stub.ClearCache(ClearCacheReq())
        assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert "Read-only file system" in str(refused.value.details())
    assert files(folder) == before


def test_a_full_disk_is_read_and_one_line_says_that_nothing_is_written(
    folder: Path, tmp_path: Path, cold: skills_pb2.GenResp
) -> None:
    folder.mkdir()
    with draft_server(tmp_path, "--prefix-dir", str(folder), module=own_disk(folder, FULL)) as server:
        seen = Path(f"/proc/{server.process.pid}/root{folder}")
        wait_for_hashes(seen)
        for number in range(9):
            for prompt in ("Who are you?", "Count to twenty."):
                ask(server, prompt, system=f"{number} {SYSTEM}")
        wait_for_line(server, "No space left on device")
        assert len(files(seen)) > 2
        assert not list(seen.glob("*.part"))
        os.kill(server.engine_pid(), signal.SIGKILL)
        assert ask(server, "Say hello.", system=f"0 {SYSTEM}").cached_tokens > 2 * BLOCK
        assert known(ask(server, "Say hello.")) == known(cold)
        assert len(lines_with(server, "prefixes are not kept at the moment")) == 1


def test_cache_clear_empties_the_folder(folder: Path, tmp_path: Path, cold: skills_pb2.GenResp) -> None:
    with draft_server(tmp_path, "--prefix-dir", str(folder)) as server:
        for prompt in ("Who are you?", "Count to twenty."):
            ask(server, prompt)
        n = len(wait_for_files(folder))
        (folder / "mine.kv").write_bytes(b"")
        command = [sys.executable, "-m", "sarai", "cache", "clear", "--target", server.target]
        cleared = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
        assert f"forgot 0 answers, 0.0 kB, and {n} files of prefixes, " in cleared.stdout
        assert files(folder) == [folder / "mine.kv"], "only what the server has written goes"
        assert known(ask(server, "Say hello.")) == known(cold)
