"""Changes that break callers of the released contract are found: buf compares with the committed file."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.servers import ROOT

BUF = ROOT / ".venv" / "bin" / "buf"
RELEASED = ROOT / ".ci" / "contract.binpb"


@pytest.fixture
def contract(tmp_path: Path) -> Path:
    """Create a copy of the protos, which tests change."""
    for path in (ROOT / "buf.yaml", *(ROOT / "skills").rglob("*.proto")):
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, copy, follow_symlinks=False)
    return tmp_path


def problems(contract: Path) -> str:
    command = [str(BUF), "breaking", "--against", str(RELEASED)]
    done = subprocess.run(command, cwd=contract, capture_output=True, text=True, check=False)
    assert not done.stderr, done.stderr
    assert bool(done.returncode) == bool(done.stdout)
    return done.stdout


def change(contract: Path, file: str, old: str, new: str) -> None:
    path = contract / "skills" / file
    text, changes = re.subn(old, new, path.read_text(), count=1)
    assert changes == 1, f"{file} has no {old}"
    path.write_text(text)


def test_todays_contract_breaks_nobody(contract: Path) -> None:
    assert problems(contract) == ""


def test_what_is_added_breaks_nobody(contract: Path) -> None:
    change(contract, "skills.proto", r"(?<=message GenReq \{\n)", "  // New.\n  repeated string images = 1000;\n")
    change(contract, "types.proto", r"(?<=message Part \{\n)", "  // New.\n  bytes audio = 3;\n")
    assert problems(contract) == ""


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("skills.proto", r"  string prompt = 1;\n", ""),
        ("skills.proto", "string prompt = 1;", "string prompt = 99;"),
        ("skills.proto", "string prompt = 1;", "bytes prompt = 1;"),
        ("skills.proto", "string prompt = 1;", "string question = 1;"),
        ("skills.proto", r"  rpc GenerateStream.*\n", ""),
        ("skills.proto", "optional float temperature", "float temperature"),
        ("skills.proto", r'import public "skills', 'package sarai.v1;\nimport public "skills'),
        ("types.proto", r"  FINISH_REASON_LENGTH = 3;\n", ""),
        ("types.proto", "PRIORITY_BATCH = 1", "PRIORITY_BATCH = 7"),
        ("skill_image/image.proto", r"  rpc Health.*\n", ""),
    ],
)
def test_what_breaks_callers_is_found(contract: Path, file: str, old: str, new: str) -> None:
    change(contract, file, old, new)
    assert problems(contract)
