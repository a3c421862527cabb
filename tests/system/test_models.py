"""`sarai models` as users run it, with a local hub that can fail in many ways."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.model_hub import Hub, model_bytes, running_hub
from tests.servers import ROOT

FILE = "Tiny-Q8_0.publisher.gguf"
CONTENT = model_bytes(32)  # the library writes, and resumes, in blocks of 10 MiB
CUT = 15 << 20


@pytest.fixture
def hub() -> Iterator[Hub]:
    with running_hub(CONTENT) as made:
        yield made


@dataclass(frozen=True)
class Shell:
    """A user with a hub, a catalogue and a folder of models."""

    hub: Hub
    home: Path

    @property
    def models(self) -> Path:
        return self.home / "models"

    @property
    def environ(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("SARAI_", "SKILL_", "HF_"))}
        return kept | {
            "PYTHONPATH": os.pathsep.join([str(self.home), *filter(None, sys.path)]), "HOME": str(self.home),
            "HF_ENDPOINT": self.hub.target, "SKILL_TINY_MODELS_DIR": str(self.models), "NO_PROXY": "*",
        }  # fmt: skip

    def start(self, *arguments: str, before: tuple[str, ...] = (), **environ: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*before, sys.executable, "-m", "sarai", "models", *arguments], cwd=ROOT, env=self.environ | environ,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def __call__(self, *arguments: str, code: int = 0, before: tuple[str, ...] = (), **environ: str) -> str:
        """Run a command; return everything that it prints."""
        with self.start(*arguments, before=before, **environ) as process:
            out, said = process.communicate(timeout=90)
        assert process.returncode == code, out + said
        assert "Traceback" not in said
        return out + said

    def whole(self) -> bool:
        """Return whether the file exists under its name; fail if its content is wrong."""
        path = self.models / FILE
        assert not path.exists() or path.read_bytes() == CONTENT
        return path.exists()

    def parts(self) -> list[int]:
        return [path.stat().st_size for path in (self.models / ".downloads").glob("*.part")]


@pytest.fixture
def sarai(hub: Hub, tmp_path: Path) -> Shell:
    (tmp_path / "models").mkdir()
    hub.install(tmp_path)
    return Shell(hub, tmp_path)


def test_pull_fetches_a_file_once_and_rm_removes_it(sarai: Shell) -> None:
    assert "downloading" in sarai("pull", "tiny")
    assert sarai.whole()
    assert (sarai.models / FILE).stat().st_mode & 0o777 == 0o644
    said = json.loads(sarai("pull", "tiny", "--json", HF_HUB_OFFLINE="1"))
    assert (said["path"], said["fetched_bytes"]) == (str(sarai.models / FILE), 0)
    assert len(sarai.hub.downloads) == 1
    assert "here" in next(line for line in sarai("list").splitlines() if line.startswith("tiny "))
    assert "34 MB removed" in sarai("rm", "tiny")
    assert not sarai.whole()


def test_pull_brings_the_file_that_reads_images_too(sarai: Shell) -> None:
    sarai.hub.install(sarai.home, images=True)
    sarai("pull", "tiny", "--no-images")
    tower = sarai.models / "mmproj-Tiny-Q8_0.publisher.gguf"
    assert (sarai.whole(), tower.exists()) == (True, False)
    assert str(tower) in sarai("pull", "tiny")
    assert tower.read_bytes() == CONTENT
    sarai("rm", "tiny")
    assert not tower.exists()


@pytest.mark.parametrize("resets", [False, True])
def test_a_connection_that_is_cut_goes_on_where_it_was(sarai: Shell, resets: bool) -> None:
    sarai.hub.cuts, sarai.hub.resets = [CUT, 1000], resets
    sarai("pull", "tiny")
    assert sarai.whole()
    assert sarai.hub.downloads[0] == ""
    assert all(asked == f"bytes={10 << 20}-" for asked in sarai.hub.downloads[1:])
    assert len(sarai.hub.downloads) == 3


def test_a_pull_that_was_ended_is_continued_by_the_next_one(sarai: Shell) -> None:
    sarai.hub.cuts, sarai.hub.pause_s = [CUT], 60
    with sarai.start("pull", "tiny") as process:
        until(lambda: sarai.parts() == [10 << 20])
        process.send_signal(signal.SIGKILL)
    assert not sarai.whole()
    assert "31% here" in sarai("list")
    sarai.hub.pause_s = 0
    assert "from 10 MB on" in sarai("pull", "tiny")
    assert sarai.whole()
    assert sarai.hub.downloads[-1] == f"bytes={10 << 20}-"
    assert sarai.parts() == []


def test_ctrl_c_ends_a_pull_at_once(sarai: Shell) -> None:
    sarai.hub.cuts, sarai.hub.pause_s = [CUT], 60
    with sarai.start("pull", "tiny") as process:
        until(lambda: sarai.parts() == [10 << 20])
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130


def test_a_server_that_cannot_send_the_rest_sends_all(sarai: Shell) -> None:
    sarai.hub.cuts, sarai.hub.ranges = [CUT], False
    sarai("pull", "tiny")
    assert sarai.whole()


def test_a_server_without_redirects_is_a_mirror(sarai: Shell) -> None:
    sarai.hub.redirect = False
    sarai("pull", "tiny")
    assert sarai.whole()


def test_wrong_bytes_get_no_name_and_are_not_continued(sarai: Shell) -> None:
    sarai.hub.content = CONTENT[:-1] + bytes([CONTENT[-1] ^ 1])
    sarai.hub.tells_hash = False
    said = sarai("pull", "tiny", code=1)
    assert f"its SHA-256 is {sarai.hub.sha256}, not {hashlib.sha256(CONTENT).hexdigest()}" in said
    assert not sarai.whole()
    assert sarai.parts() == []


def test_a_file_that_has_changed_at_the_hub_is_refused_before_it_is_fetched(sarai: Shell) -> None:
    sarai.hub.content = model_bytes(32)
    assert "the hub has another" in sarai("pull", "tiny", code=1)
    assert sarai.hub.downloads == []


def test_a_page_instead_of_a_model_is_refused(sarai: Shell) -> None:
    sarai.hub.content, sarai.hub.tells_hash = b"<html>log in first</html>", False
    sarai.hub.install(sarai.home, size=0, sha256="")
    assert "it is no model file, it begins with b'<htm'" in sarai("pull", "tiny", code=1)
    assert list(sarai.models.glob("*")) == [sarai.models / ".downloads"]


@pytest.mark.parametrize(("status", "said"), [(404, "has no such file"), (503, "answered 503"), (401, "")])
def test_a_refusal_of_the_hub_is_told(sarai: Shell, status: int, said: str) -> None:
    sarai.hub.status = status
    told = sarai("pull", "tiny", code=1)
    assert "error: cannot fetch publisher/Tiny-GGUF/tiny.gguf: " in told
    assert said in told


def test_without_a_network_a_pull_ends_with_the_reason(sarai: Shell) -> None:
    assert "the connection failed (ConnectError" in sarai("pull", "tiny", code=1, HF_ENDPOINT="http://127.0.0.1:1")
    assert "offline mode is on" in sarai("pull", "tiny", code=1, HF_HUB_OFFLINE="1")


def test_two_pulls_at_once_fetch_once(sarai: Shell) -> None:
    sarai.hub.pause_s = 2
    first = sarai.start("pull", "tiny")
    until(lambda: len(sarai.hub.downloads) == 1)
    assert "waiting" in sarai("pull", "tiny")
    first.communicate(timeout=60)
    assert first.returncode == 0
    assert sarai.whole()
    assert len(sarai.hub.downloads) == 1


def test_the_hash_of_a_file_that_nobody_has_pinned_is_kept_and_checked(sarai: Shell) -> None:
    sarai.hub.tells_hash = False
    sarai.hub.install(sarai.home, size=0, sha256="")
    assert f"It is {sarai.hub.sha256}" in sarai("pull", "tiny")
    sums = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=sarai.models, capture_output=True, check=False)
    assert sums.returncode == 0
    assert "ok: " in sarai("verify", "tiny")
    sarai("rm", "tiny")
    sarai.hub.content = model_bytes(11)
    assert "discarded: its SHA-256 is" in sarai("pull", "tiny", code=1)
    assert not sarai.whole()


def test_verify_finds_a_file_that_was_damaged_later(sarai: Shell) -> None:
    sarai("pull", "tiny")
    damaged = sarai.models / FILE
    damaged.write_bytes(CONTENT[:-1])
    assert f"wrong: {damaged} has " in sarai("verify", "tiny", code=1)
    damaged.unlink()
    assert "not here: tiny" in sarai("verify", "tiny", code=1)


def small_disk(sarai: Shell, megabytes: int) -> tuple[str, ...]:
    """Return the prefix for a command for which the models folder is a separate disk of this size."""
    mount = f"mount -t tmpfs -o size={megabytes}m none {sarai.models}"
    prefix = ("unshare", "-rm", "sh", "-c", f'{mount} && "$@"; code=$?; ls -ARs {sarai.models}; exit $code', "sh")
    if not shutil.which("unshare") or subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no disk of our own can be mounted here (unshare -rm)")
    return prefix


def test_a_disk_that_is_too_small_is_known_before_anything_is_fetched(sarai: Shell) -> None:
    assert "needs 101 MB on the disk" in sarai("pull", "tiny", code=1, before=small_disk(sarai, 90))
    assert sarai.hub.downloads == []


def test_a_disk_that_fills_up_keeps_what_has_arrived(sarai: Shell) -> None:
    sarai.hub.tells_size = False
    sarai.hub.install(sarai.home, size=0)
    said = sarai("pull", "tiny", code=1, before=small_disk(sarai, 24))
    assert "is full: make room and pull again" in said
    assert re.search(rf"^ *[1-9]\d+ {FILE}.*\.part$", said, re.MULTILINE)


def test_a_folder_that_cannot_be_written_is_told(sarai: Shell) -> None:
    sarai.models.rmdir()
    sarai.models.symlink_to("/proc")
    assert f"cannot write to {sarai.models}" in sarai("pull", "tiny", code=1)


def test_names_that_are_not_there_are_wrong_usage(sarai: Shell) -> None:
    assert "did you mean tiny?" in sarai("pull", "tinny", code=2)


def test_a_catalogue_that_is_wrong_is_told(sarai: Shell) -> None:
    sarai.hub.install(sarai.home, sha256="12")
    assert "sha256 of Tiny-Q8_0.publisher.gguf must be 64 hexadecimal digits" in sarai("list", code=2)


def test_show_says_what_a_file_is_and_needs(sarai: Shell) -> None:
    file = ROOT / "tests" / "models" / "tiny-qwen3vl-q8_0.gguf"
    said = sarai("show", str(file), "--cells", "2048", "--memory", "100")
    for part in ("qwen3vl", "Q8_0", "4,096 tokens", "ChatML", "2,048 cells", "does not fit into 100 MiB", "tok/s"):
        assert part in said
    told: dict[str, Any] = json.loads(sarai("show", str(file), "--json"))
    assert told["bandwidth_bytes_per_s"] > 1e8
    assert told["fits"] is True
    assert "is no GGUF file" in sarai("show", "./README.md", code=1)


def test_show_says_what_the_catalogue_knows_before_a_file_is_here(sarai: Shell) -> None:
    said = sarai("show", "tiny", "--cells", "1000000")
    for part in ("MIT", "5,000 tokens", "about 228 MiB with 1,000,000 cells of 0.1 KiB", sarai.hub.sha256):
        assert part in said


def test_a_terminal_shows_bytes_rate_and_time_left(sarai: Shell) -> None:
    sarai.hub.pause_s = 1.5
    ours, theirs = pty.openpty()
    command, environ = [sys.executable, "-m", "sarai", "models", "pull", "tiny"], sarai.environ
    seen = b""
    with subprocess.Popen(
        command, cwd=ROOT, env=environ | {"TERM": "xterm", "COLUMNS": "120", "NO_COLOR": "1"}, stdin=theirs,
        stdout=theirs, stderr=theirs, start_new_session=True,
    ) as process:  # fmt: skip
        os.close(theirs)
        with contextlib.suppress(OSError):  # EIO: the other end is closed
            while chunk := os.read(ours, 4096):
                seen += chunk
        os.close(ours)
    assert process.returncode == 0
    assert re.search(rb"downloading Tiny\S+ \S+ +[\d.]+/33.6 MB +[\d.]+ MB/s +\d:\d\d:\d\d", seen)
    assert f"{sarai.models / FILE}" in seen.decode()


def until(happened: Any) -> None:
    end = time.monotonic() + 30
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.05)
