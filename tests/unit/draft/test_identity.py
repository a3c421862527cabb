"""What determines answers: any change of it is another identity, and large files are hashed once."""

from __future__ import annotations

import json
import resource
import threading
from typing import TYPE_CHECKING

import pytest

from skills.skill_draft.identity import FileHashes, Identity

if TYPE_CHECKING:
    from pathlib import Path

MEMORY = "hashes.json"


def known(model: Path, tower: Path | None = None, *, exact: bool = True, memory: str = MEMORY) -> Identity:
    """Return the identity of a server that has loaded a model."""
    learned = threading.Event()
    hashes = FileHashes(model.parent / memory)
    identity = Identity(model, tower, exact=exact, hashes=hashes)
    identity.on_known = learned.set
    identity.before_load()
    identity.after_load()
    assert learned.wait(30)
    return identity


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Return a file that stands for a model."""
    path = tmp_path / "model.gguf"
    path.write_bytes(b"weights and template")
    return path


def test_any_change_of_what_determines_answers_is_another_identity(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    same = known(model).digest
    others = [known(model, exact=False).digest]
    monkeypatch.setenv("GGML_ANYTHING", "1")
    others.append(known(model).digest)
    monkeypatch.delenv("GGML_ANYTHING")
    assert known(model, memory="forgotten.json").digest == same
    model.write_bytes(b"weights and Template")
    others.append(known(model).digest)
    assert len({same, *others}) == 4
    assert all(other and len(other) == 32 for other in others)


def test_the_vision_tower_matters_to_images_alone(model: Path) -> None:
    blind, tower = known(model), model.parent / "mmproj.gguf"
    tower.write_bytes(b"one")
    first = known(model, tower)
    tower.write_bytes(b"another")
    second = known(model, tower)
    assert blind.digest == first.digest == second.digest
    assert blind.image_digest is None
    assert None is not first.image_digest != second.image_digest


def test_remembered_hashes_are_known_before_the_engine_serves(model: Path) -> None:
    digest = known(model).digest
    restarted = Identity(model, None, exact=True, hashes=FileHashes(model.parent / MEMORY))
    restarted.before_load()
    assert restarted.digest == digest
    model.write_bytes(b"weights and tempLate")  # of the same size
    restarted.before_load()
    assert restarted.digest is None


def test_an_engine_that_is_replaced_has_the_same_identity_at_once_where_nothing_can_be_written(model: Path) -> None:
    identity = known(model, memory="model.gguf/hashes.json")
    digest = identity.digest
    identity.before_load()
    assert None is not identity.digest == digest


def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path) -> None:
    hashes, usual = FileHashes(tmp_path / MEMORY), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16, usual[1]))
    try:
        hashes.remember({tmp_path / "model.gguf": ((1, 2, 3, 4), b"a hash")})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    assert not list(tmp_path.iterdir())
    assert hashes.recall(tmp_path / "model.gguf", (1, 2, 3, 4)) == b"a hash"


def test_a_file_that_changes_while_it_is_loaded_has_no_identity(model: Path) -> None:
    digest = known(model).digest
    identity = Identity(model, None, exact=True, hashes=FileHashes(model.parent / MEMORY))
    identity.before_load()
    assert identity.digest == digest
    model.write_bytes(b"another model")
    identity.after_load()
    assert identity.digest is None


def test_a_damaged_memory_of_hashes_costs_only_their_time(model: Path) -> None:
    digest = known(model).digest
    for content in ("", "[]", "{", json.dumps({"model.gguf": 3}), "\0"):
        (model.parent / "damaged.json").write_text(content)
        assert known(model, memory="damaged.json").digest == digest, content
