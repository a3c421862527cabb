"""Which model is served if some files may not be read. Tests that run as root drop its right to read everything."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from skills.skill_draft.catalog import ModelNotFoundError, models_dir
from skills.skill_draft.engine.binding import ModelError
from skills.skill_draft.engine.gguf import tensors
from tests.servers import ROOT, TINY

MODEL = TINY.name
BY_NAME = "smollm2-135m-instruct-q8_0"
FIND = """
import sys
from skills.skill_draft.catalog import ModelNotFoundError, find_model, models_dir
try:
    print(find_model(sys.argv[1], models_dir(sys.argv[2])))
except ModelNotFoundError as error:
    print("refused:", error)
"""


@pytest.fixture
def as_user() -> list[str]:
    """Return the prefix for a command that has to obey file permissions."""
    if os.geteuid() != 0:
        return []
    command = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
    if shutil.which("setpriv") is None or subprocess.run([*command, "true"], check=False).returncode:
        pytest.skip("root, and no setpriv to drop root's right to read everything")
    return command


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "above" / "models"
    folder.mkdir(parents=True)
    shutil.copy(TINY, folder / MODEL)
    yield folder
    for path in (folder.parent, folder):
        path.chmod(0o755)


@pytest.fixture
def find(as_user: list[str]) -> Callable[..., str]:
    """Return a function that looks for a model in a process that obeys file permissions."""

    def look(setting: str, folder: Path) -> str:
        command = [*as_user, sys.executable, "-c", FIND, setting, str(folder)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

    return look


@pytest.mark.parametrize(
    ("setting", "closed", "mode"),
    [
        ("", ".", 0o000),
        ("", ".", 0o111),
        ("", ".", 0o444),
        ("", "..", 0o000),
        ("", MODEL, 0o000),
        (MODEL, ".", 0o000),
        (MODEL, ".", 0o444),
        (MODEL, "..", 0o000),
        (MODEL, MODEL, 0o000),
        (BY_NAME, ".", 0o000),
        (BY_NAME, ".", 0o444),
        (BY_NAME, "..", 0o000),
    ],
)
def test_no_model_stands_in_for_one_that_may_not_be_read(
    folder: Path, find: Callable[..., str], setting: str, closed: str, mode: int
) -> None:
    (folder / closed).chmod(mode)
    found = find(str(folder / MODEL) if setting == MODEL else setting, folder)
    assert found.startswith(f"refused: no permission: this server, user {os.geteuid()}, cannot read {folder}")
    assert "chmod -R a+rX" in found


def test_model_that_may_be_read_is_found(folder: Path, find: Callable[..., str]) -> None:
    assert find("", folder) == str(folder / MODEL)


def test_folder_that_is_set_but_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"no such folder: .*SKILL_DRAFT_MODELS_DIR"):
        models_dir(str(tmp_path / "typo"))


def test_server_does_not_start(folder: Path, as_user: list[str]) -> None:
    folder.chmod(0o000)
    command = [*as_user, sys.executable, "-m", "skills.skill_draft.server", "--listen", f"unix:{folder.parent}/socket"]
    run = subprocess.run(
        [*command, "--models-dir", str(folder)], cwd=ROOT, capture_output=True, text=True, timeout=30, check=False
    )
    assert run.returncode == 1
    assert run.stderr.splitlines()[-1].startswith("skill_draft: no permission: ")


def test_engine_tells_a_file_that_cannot_be_read_from_one_that_is_no_gguf(tmp_path: Path) -> None:
    (tmp_path / "text.gguf").write_text("text")
    with pytest.raises(ModelError, match="no GGUF file"):
        tensors(tmp_path / "text.gguf")
    with pytest.raises(ModelError, match=r"cannot read .*: Is a directory"):
        tensors(tmp_path)
