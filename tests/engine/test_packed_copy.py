"""A packed copy of a model gives the same bits, is made once, and its absence costs nothing but time."""

from __future__ import annotations

import ctypes
import os
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from bench.ggml import variants
from skills.runtime.resources import anonymous_bytes
from skills.skill_draft.embedded import make_embedded
from skills.skill_draft.engine import packing
from skills.skill_draft.engine.binding import L
from skills.skill_draft.engine.build import cpu_library, has_our_kernels
from skills.skill_draft.engine.gguf import tensors
from skills.skill_draft.engine.messages import Done, Ending, Sampling
from skills.skill_draft.engine.private_folder import locked

from .harness import TINY, EngineUnderTest, ask

pytestmark = pytest.mark.skipif(not has_our_kernels(), reason="this CPU has none of our kernels")
MAPPED = "packed copy mapped"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("packed") / "copies"


@pytest.fixture(scope="module")
def q4_0(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the embedded model in another type."""
    target = tmp_path_factory.mktemp("q4_0") / "q4_0.gguf"
    params = L.llama_model_quantize_default_params()
    params.ftype, params.allow_requantize = L.LLAMA_FTYPE_MOSTLY_Q4_0, True
    assert not L.llama_model_quantize(str(make_embedded()).encode(), str(target).encode(), ctypes.byref(params))
    assert "Q4_0" in {tensor.type for tensor in tensors(target)}
    return target


@pytest.fixture
def model(tmp_path: Path) -> Iterator[Path]:
    """Yield a file of the embedded model that may be changed."""
    path = tmp_path / "model.gguf"
    path.write_bytes(make_embedded().read_bytes())
    yield path
    path.unlink()


def notes_of(model: Path, folder: Path) -> str:
    return "\n".join(EngineUnderTest(model, n_ctx=256, kv_cells=256, packed_dir=str(folder)).loaded.notes)


def copies(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.packed"))


def endings(model: Path, **config: str) -> tuple[str, list[Ending]]:
    """Return what an engine notes on loading, and its answers to four requests that run at once."""
    requests = [
        ask("Explain how a rainbow forms.", max_tokens=24, top_logprobs=2),
        ask("List five animals that live in the sea. " * 10, max_tokens=12, top_logprobs=2),
        ask("Why is the sky blue?", max_tokens=24, sampling=Sampling(temperature=0.9, seed=5)),
        ask("Name a colour.", max_tokens=12, regex="red|green|blue"),
    ]
    with EngineUnderTest(model, **config) as engine:
        done = [engine.wait_for(id_) for id_ in [engine.submit(request) for request in requests]]
        assert all(isinstance(one, Done) for one in done), done
        return engine.loaded.notes[0], [one.endings[0] for one in done if isinstance(one, Done)]


@pytest.mark.parametrize("name", ["embedded", "q4_0"])
def test_the_bits_are_those_of_the_model(name: str, folder: Path, request: pytest.FixtureRequest) -> None:
    path = make_embedded() if name == "embedded" else request.getfixturevalue(name)
    _, plain = endings(path)
    for _ in range(2):  # made, then found
        note, packed = endings(path, packed_dir=str(folder))
        assert MAPPED in note
        assert packed == plain


def test_the_library_in_use_is_told_though_others_are_loaded() -> None:
    best = variants()[0]  # loads all of them
    assert Path(cpu_library()._name) == best


def test_a_copy_is_made_once_and_anew_if_the_model_changes(model: Path, tmp_path: Path) -> None:
    assert MAPPED in notes_of(model, tmp_path / "copies")
    (first,) = copies(tmp_path / "copies")
    made = first.stat().st_mtime_ns
    assert MAPPED in notes_of(model, tmp_path / "copies")
    assert first.stat().st_mtime_ns == made
    assert first.stat().st_mode & 0o777 == 0o600

    os.utime(model, (time.time() + 5, time.time() + 5))
    (tmp_path / "copies" / "killed.packing").touch()
    assert MAPPED in notes_of(model, tmp_path / "copies")
    (second,) = copies(tmp_path / "copies")
    assert second != first
    assert not list((tmp_path / "copies").glob("*.packing"))


def test_a_copy_that_is_cut_off_is_made_anew(model: Path, tmp_path: Path) -> None:
    assert MAPPED in notes_of(model, tmp_path)
    (copy,) = copies(tmp_path)
    whole = copy.read_bytes()
    copy.write_bytes(whole[:1_000_000])
    assert MAPPED in notes_of(model, tmp_path)
    assert copy.read_bytes() == whole


def test_the_weights_are_in_no_memory_of_the_process(folder: Path) -> None:
    before = anonymous_bytes([os.getpid()])
    assert MAPPED in notes_of(make_embedded(), folder)
    assert anonymous_bytes([os.getpid()]) - before < make_embedded().stat().st_size / 3


def test_without_a_copy_the_model_is_packed_on_loading(model: Path, tmp_path: Path) -> None:
    assert "token_embd.weight has 767 rows, no multiple of 16" in notes_of(TINY, tmp_path)

    (open_to_all := tmp_path / "open").mkdir(mode=0o755)
    assert "open to others (mode 055 of them): chmod 700 it" in notes_of(model, open_to_all)

    (tmp_path / "file").touch()
    assert "no packed copy of the model" in notes_of(model, tmp_path / "file")

    with locked(tmp_path):
        assert "another process is making it" in notes_of(model, tmp_path)
    assert not copies(tmp_path)


@pytest.mark.parametrize("promises", [True, False], ids=["before", "in mid-work"])
def test_a_disk_without_room_is_found_out(
    promises: bool, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not promises:  # a file system that reserves no room
        monkeypatch.setattr(os, "posix_fallocate", lambda *_: None)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    try:
        notes = notes_of(model, tmp_path / "copies")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "no packed copy of the model: " in notes
    assert "File too large" in notes
    assert [path.name for path in (tmp_path / "copies").iterdir()] == ["lock"]


@pytest.mark.parametrize("slice_bytes", [1, 50_000])
def test_slices_are_what_the_whole_would_be(slice_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_embedded()
    table = next(tensor for tensor in tensors(path) if tensor.name == "blk.0.ffn_down.weight")
    data = np.fromfile(path, np.uint8, count=table.size_bytes, offset=table.offset)

    def packed() -> bytes:
        parts = packing.pack(data, type_number=table.type_number, width=table.shape[0])
        return b"".join(part.tobytes() for part in parts)

    whole = packed()
    monkeypatch.setattr(packing, "_SLICE_BYTES", slice_bytes)
    assert packed() == whole
    assert len(whole) == len(data)
    assert whole != data.tobytes()
