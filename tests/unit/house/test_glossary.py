"""The glossary: words that are out are not used, and the file that each term names exists."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
GLOSSARY = ROOT / "docs" / "glossary.md"
TERMS, OUT = GLOSSARY.read_text(encoding="utf-8").split("## Words that are out")
# Folders that have been edited for plain English; the test keeps them so.
ROOMS = (
    "sarai", "core", "skills", "bench", "tools", "docs", "tests", "README.md",
)  # fmt: skip
# The glossary lists the words; the benchmarks' prompts are input data.
EXEMPT = ("docs/glossary.md", "tests/unit/house/test_glossary.py", "bench/prompts/", "bench/results", "bench/.venv/")
SUFFIXES = {".py", ".md", ".c"}


def rows(table: str) -> list[list[str]]:
    """Return the cells of a Markdown table's rows, without its header."""
    lines = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| ")]
    return [cells for cells in lines if cells[0] not in {"term", "not", "---"}]


WORDS = [word for cells in rows(OUT) for word in cells[0].split(", ")]
SIGNS = {ord(sign): " " for sign in "_#/"}


def found(text: str) -> list[str]:
    """Return the words that are out, also in snake case and in phrases that continue on the next line."""
    plain = " ".join(text.lower().translate(SIGNS).split())
    return [word for word in WORDS if word in plain and re.search(rf"\b{re.escape(word)}\b", plain)]


def files() -> list[str]:
    paths = (path for room in ROOMS for path in [ROOT / room, *(ROOT / room).rglob("*")] if path.suffix in SUFFIXES)
    names = sorted(path.relative_to(ROOT).as_posix() for path in paths if path.is_file())
    return [name for name in names if not name.startswith(EXEMPT)]


def test_words_that_are_out_stay_out() -> None:
    used = {name: words for name in files() if (words := found((ROOT / name).read_text(encoding="utf-8")))}
    assert not used


def test_a_word_that_is_out_is_found_in_any_spelling() -> None:
    assert found("The lease of so\n    # many calls; num_guesses, Whoever") == [
        "lease",
        "guesses",
        "so many",
        "whoever",
    ]
    assert found("release, besides, this many calls") == []
    assert len(WORDS) > 20


def test_every_term_has_a_home() -> None:
    homeless = [term for term, _, home in rows(TERMS) if not (ROOT / home.strip("`")).exists()]
    assert not homeless
