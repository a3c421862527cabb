"""The catalogue: the host and the server each read their part of it, and agree."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from core.errors import ConfigError
from core.models.catalog import Model, read_catalogs
from core.models.folder import models_dir
from core.models.gguf_file import read_gguf
from core.models.needs import Needs, needs_of
from core.plugins import get_plugins
from skills.skill_draft import catalog as server
from tests.servers import ROOT, TINY

MIB = 1 << 20


@pytest.fixture(scope="module")
def models() -> dict[str, Model]:
    return read_catalogs(get_plugins().skills.values())


def test_host_and_server_know_the_same_files(models: dict[str, Model]) -> None:
    assert {name: (model.text.file, model.text.package, model.made_from) for name, model in models.items()} == {
        name: (entry.file, entry.package, entry.made_from) for name, entry in server.catalog().items()
    }


def test_host_and_server_look_into_the_same_folder(
    models: dict[str, Model], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    skill = models[server.EMBEDDED].skill
    assert models_dir(skill, {}) == server.models_dir() == ROOT / "models"
    assert models_dir(skill, {"SKILL_DRAFT_MODELS_DIR": str(tmp_path)}) == server.models_dir(str(tmp_path))
    with pytest.raises(ConfigError, match="SKILL_DRAFT_MODELS_DIR"):
        models_dir(skill, {"SKILL_DRAFT_MODELS_DIR": "/nowhere"})
    monkeypatch.setattr("core.models.folder._TREE", Path("/nowhere"))
    monkeypatch.setattr(server, "ROOT", Path("/nowhere"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert models_dir(skill, os.environ) == server.models_dir() == tmp_path / "sarai" / "models"


def test_files_have_names_that_say_model_and_publisher(models: dict[str, Model]) -> None:
    files = [file for model in models.values() for file in model.files]
    assert len({file.file for file in files}) == len(files)
    for file in files:
        if file.repository:
            assert file.file.endswith(f".{file.repository.split('/')[0].lower()}.gguf")


def test_all_files_but_the_one_that_nobody_has_pinned_have_size_and_hash(models: dict[str, Model]) -> None:
    files = [file for model in models.values() for file in model.files if file.repository]
    assert [file.file for file in files if not (file.size_bytes and file.sha256)] == [
        "Qwen3-VL-4B-Instruct-IQ4_NL.unsloth.gguf"
    ]


def test_towers_are_not_taken_for_models(models: dict[str, Model]) -> None:
    assert all("mmproj" in model.images.file for model in models.values() if model.images)
    assert "mmproj" not in "".join(model.text.file for model in models.values())


def test_the_embedded_model_has_the_cells_and_the_context_that_the_catalogue_says(models: dict[str, Model]) -> None:
    model = models[models[server.EMBEDDED].made_from]
    file = read_gguf(server.find_model(model.name, Path("/nowhere")))
    needs = needs_of(file)
    assert needs is not None
    assert needs.cell == model.cell_bytes
    assert file.about("context_length") == model.context


@pytest.mark.parametrize(("limit", "cells"), [(2900, 2816), (3000, 3584), (3050, 3840), (3072, 4096)])
def test_the_cells_that_fit_are_those_that_the_4bs_container_chooses(limit: int, cells: int) -> None:
    # The engine's choice as its log says it, with limits that are tight: the sizes of its other buffers shrink too.
    needs = Needs(
        weights=2269 * MIB, cell=112_896, vocabulary=260 * 151_936, row=4 * (3 * 9728 + 6 * 2560), output=4 * 151_936,
        read_per_token=2269 * MIB,
    )  # fmt: skip
    assert needs.cells_within(limit * MIB) // 256 * 256 == cells


def test_memory_and_cells_are_the_same_question() -> None:
    needs = needs_of(read_gguf(TINY))
    assert needs is not None
    limit = needs.limit_for(50_000)
    assert needs.cells_within((limit - 1) * MIB) < 50_000 <= needs.cells_within(limit * MIB)
    assert needs.cells_within(1e6) < 0
    assert needs.ceiling(1e9) > needs.ceiling(1e9, 4096) > 0
