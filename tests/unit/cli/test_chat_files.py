from __future__ import annotations

from pathlib import Path

import pytest

from core.cli.chat_files import completion


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the working folder, which is also the home."""
    for name in ("a photo.png", "another.png", ".hidden", "list.txt"):
        (tmp_path / name).touch()
    (tmp_path / "album" / "spring").mkdir(parents=True)
    (tmp_path / "album" / "tree.jpg").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def completions(line: str) -> list[str]:
    found: list[str] = []
    while (one := completion(line, len(found))) is not None:
        found.append(one)
    return found


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("/image ", ["a photo.png", "album/", "another.png", "list.txt"]),
        ("/image a", ["a photo.png", "album/", "another.png"]),
        ("/image a ph", ["a photo.png"]),
        ("/image album/", ["album/spring/", "album/tree.jpg"]),
        ("/image album/t", ["album/tree.jpg"]),
        ("/image ~/li", ["~/list.txt"]),
        ("/image .h", [".hidden"]),
        ("/image nowhere/", []),
        ("/image x", []),
        ("/save  l", ["list.txt"]),
    ],
)
def test_names_of_files_are_completed_after_commands_that_take_one(line: str, names: list[str]) -> None:
    command = line[: len(line) - len(line.split(maxsplit=1)[-1])] if len(line.split()) > 1 else line
    assert completions(line) == [f"{command}{name}" for name in names]


@pytest.mark.parametrize("line", ["", "a", "/im", "/image", "/imagel", "/set system a", "see /image a"])
def test_tab_writes_a_tab_elsewhere(line: str) -> None:
    assert completions(line) == [f"{line}\t"]
