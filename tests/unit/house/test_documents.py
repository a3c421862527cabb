"""The documents agree with the code."""

from __future__ import annotations

import dataclasses
import hashlib
import re
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest

from skills.runtime.settings import variable
from skills.skill_draft.catalog import EMBEDDED
from skills.skill_draft.settings import NAME, Settings
from skills.skill_draft.vision.grid import grid_of
from skills.skill_draft.vision.limits import most_pixels

ROOT = Path(__file__).resolve().parents[3]
DOCUMENTS = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "models/*.md", "docs/**/*.md", "skills/**/*.md")
    for path in ROOT.glob(pattern)
)


def test_readme_has_every_setting_with_its_default() -> None:
    rows = re.findall(
        r"^\| `(SKILL_DRAFT_\w+)` \| *(.*?) *\|", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    documented = {name: default.strip("`") for name, default in rows}
    assert documented == {variable(NAME, item.name): str(item.default) for item in dataclasses.fields(Settings)}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_between_documents_lead_somewhere(name: str) -> None:
    document = ROOT / name
    for target in re.findall(r"\]\((?!https?://|mailto:)([^)#]+)", document.read_text(encoding="utf-8")):
        assert (document.parent / target).exists(), target


@pytest.mark.parametrize("name", DOCUMENTS)
def test_commands_in_documents_name_targets_that_make_has(name: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    text = (ROOT / name).read_text(encoding="utf-8")
    assert set(re.findall(r"(?:^|`)make ([a-z-]+)", text, re.MULTILINE)) <= targets


def test_the_catalogue_has_the_hash_and_size_of_what_the_embedded_model_is_made_from() -> None:
    models = tomllib.loads((ROOT / "models/catalog.toml").read_text(encoding="utf-8"))["models"]
    entry = models[models[EMBEDDED]["made_from"]]
    spec = find_spec(entry["package"])
    assert spec is not None
    assert spec.origin is not None
    file = Path(spec.origin).parent / entry["file"]
    assert file.stat().st_size == entry["size_bytes"]
    with file.open("rb") as opened:
        assert hashlib.file_digest(opened, "sha256").hexdigest() == entry["sha256"]


def test_document_on_images_has_the_pixels_that_each_kind_may_have() -> None:
    document = (ROOT / "docs" / "images.md").read_text(encoding="utf-8")
    documented = re.findall(r"(\d+)(?: million pixels)?\s+\(((?:progressive )?[A-Z]\w+)\)", document)
    assert {kind.lower(): int(millions) for millions, kind in documented} == {
        kind: most_pixels(kind) // 1_000_000 for kind in ("jpeg", "progressive jpeg", "png", "webp", "gif", "bmp")
    }


def test_document_on_images_has_the_tokens_that_their_sizes_take() -> None:
    document = (ROOT / "docs" / "images.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) x (\d+) \| (\d+) \| (\d+) \| (\d+) \|$", document, re.MULTILINE)
    assert len(rows) > 5
    for row in rows:
        width, height, *documented = map(int, row)
        grids = [grid_of(width, height, max_tokens) for max_tokens in (256, 576, 1024)]
        assert documented == [across * down for across, down in grids]
