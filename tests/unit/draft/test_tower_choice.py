"""Which vision tower a server uses, and whether there is memory for it."""

from __future__ import annotations

import shutil
import struct
from pathlib import Path

import pytest

from skills.skill_draft.engine.messages import Ready, Sizes
from skills.skill_draft.images import reserved_bytes
from skills.skill_draft.model_file import ModelFileError, TowerFile, cell_bytes, row_width
from skills.skill_draft.settings import Settings
from skills.skill_draft.tower_choice import Tower, choose_tower, fitted, fitted_cells
from tests.servers import TINY
from tests.vision import MMPROJ, ROW_WIDTH

GIB = 1 << 30
FOUR_B, FOUR_B_TOWER = "Qwen3-VL-4B-Instruct-IQ4_NL.unsloth.gguf", "mmproj-Qwen3-VL-4B-Instruct-Q8_0.qwen.gguf"


def gguf(path: Path, size: int, **values: int | str | list[bool]) -> Path:
    """Write the metadata of a model; the rest of the file is a hole."""
    packed = b""
    for name, value in values.items():
        key = name.replace("__", ".").encode()
        packed += struct.pack("<Q", len(key)) + key
        match value:
            case int():
                packed += struct.pack("<II", 4, value)
            case str():
                packed += struct.pack("<IQ", 8, len(value)) + value.encode()
            case list():
                packed += struct.pack("<IIQ", 9, 7, len(value)) + bytes(value)
    path.write_bytes(struct.pack("<4sIQQ", b"GGUF", 3, 0, len(values)) + packed)
    with path.open("r+b") as file:
        file.truncate(size)
    return path


def four_b(folder: Path) -> Path:
    return gguf(
        folder / FOUR_B, 2_380_000_000, general__architecture="qwen3vl", qwen3vl__block_count=36,
        qwen3vl__embedding_length=2560, qwen3vl__attention__head_count=32, qwen3vl__attention__head_count_kv=8,
        qwen3vl__attention__key_length=128, qwen3vl__attention__value_length=128, qwen3vl__n_deepstack_layers=3,
    )  # fmt: skip


def four_b_tower(path: Path, size: int = 453_974_304) -> Path:
    return gguf(
        path, size, clip__projector_type="qwen3vl_merger", clip__vision__embedding_length=1024,
        clip__vision__projection_dim=2560, clip__vision__is_deepstack_layers=[i in (5, 11, 17) for i in range(24)],
    )  # fmt: skip


def test_metadata_is_read() -> None:
    tower = TowerFile.read(MMPROJ)
    assert (tower.width, tower.row_width, tower.size_bytes) == (96, ROW_WIDTH, MMPROJ.stat().st_size)
    assert (row_width(TINY), cell_bytes(TINY)) == (ROW_WIDTH, 4 * 2 * 32 * (34 / 32 + 2))


@pytest.mark.parametrize("content", [b"", b"GGUF", b"text" * 99, b"GGUF\3\0\0\0" + b"\xff" * 99])
def test_damaged_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "damaged.gguf"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=r"GGUF|cut off"):
        row_width(path)


def test_what_comes_after_the_vocabulary_is_read_too(tmp_path: Path) -> None:
    model = gguf(
        tmp_path / "model.gguf", 500, tokenizer__ggml__bos_token_id=1, general__architecture="qwen3vl",
        qwen3vl__embedding_length=64, qwen3vl__n_deepstack_layers=2,
    )  # fmt: skip
    assert row_width(model) == 192


def test_tower_is_the_one_next_to_the_model_or_the_one_that_is_named(tmp_path: Path) -> None:
    model, folder = Path(shutil.copy(TINY, tmp_path)), tmp_path / "models"
    assert "there is no vision tower next to" in choose_tower("", model, folder).why_not
    neighbour = Path(shutil.copy(MMPROJ, tmp_path))
    assert choose_tower("", model, folder).file == TowerFile.read(neighbour)
    assert choose_tower("off", model, folder) == Tower(why_not="SKILL_DRAFT_MMPROJ is off")
    other = Path(shutil.copy(MMPROJ, tmp_path / "other-mmproj.gguf"))
    assert "choose one of other-mmproj.gguf, tiny-qwen3vl-mmproj.gguf" in choose_tower("", model, folder).why_not
    named = choose_tower(str(other), model, folder).file
    assert named is not None
    assert named.path == other


def test_catalogue_names_the_tower_of_its_models(tmp_path: Path) -> None:
    model = four_b(tmp_path)
    four_b_tower(tmp_path / "another-mmproj.gguf")
    assert f"{FOUR_B_TOWER} is not here: `sarai models pull" in choose_tower("", model, tmp_path).why_not
    path = four_b_tower(tmp_path / FOUR_B_TOWER)
    tower = choose_tower("", model, tmp_path).file
    assert tower is not None
    assert (tower.path, tower.row_width) == (path, 10_240)


def test_tower_of_another_model_is_refused_where_it_is_named_and_left_out_where_it_is_found(tmp_path: Path) -> None:
    model = Path(shutil.copy(TINY, tmp_path))
    tower = four_b_tower(tmp_path / "mmproj.gguf")
    says = "mmproj.gguf does not belong to tiny-qwen3vl-q8_0.gguf: its rows have 10240 values, and the model wants 384"
    with pytest.raises(ModelFileError, match=says):
        choose_tower(str(tower), model, tmp_path)
    assert choose_tower("", model, tmp_path).why_not == says


def test_text_model_names_one_that_reads_images(tmp_path: Path) -> None:
    model = gguf(tmp_path / "text.gguf", 1000, general__architecture="llama", llama__embedding_length=64)
    assert (
        "text, reads text alone; qwen3-vl-4b-instruct-iq4_nl reads images" in choose_tower("", model, tmp_path).why_not
    )
    with pytest.raises(ModelFileError, match=r"text\.gguf reads text alone"):
        choose_tower(str(MMPROJ), model, tmp_path)


def test_memory_that_is_missing_is_told_with_the_line_that_gives_it(tmp_path: Path) -> None:
    model = four_b(tmp_path)
    tower = Tower(file=TowerFile.read(four_b_tower(tmp_path / FOUR_B_TOWER)))
    assert tower.file is not None
    reserved = reserved_bytes(Settings(), tower.file)
    assert 0.9e9 < reserved < 1.3e9
    assert fitted(tower, model, reserved=reserved, limit=4 * GIB) is tower
    short = fitted(tower, model, reserved=reserved, limit=3 * GIB)
    assert (short.file, short.short_of_memory) == (None, True)
    assert short.why_not == "they need 710 MB more memory: mem_limit, with compose SARAI_DRAFT_MEMORY=4g"


def test_engine_that_has_too_few_cells_with_images_shows_that_memory_is_missing(tmp_path: Path) -> None:
    model = four_b(tmp_path)
    tower = Tower(file=TowerFile.read(four_b_tower(tmp_path / FOUR_B_TOWER)))

    def ready(n_cells: int) -> Ready:
        sizes = Sizes(n_ctx=256, n_cells=n_cells, n_batch=64, slots=4, n_slots=8, n_outputs=8, block_cells=64)
        return Ready(model="m", numerics="exact", notes=(), sizes=sizes)

    assert fitted_cells(tower, model, ready(1024), chosen=True) is tower
    assert fitted_cells(tower, model, ready(512), chosen=False) is tower
    assert "they need 58 MB more memory" in fitted_cells(tower, model, ready(512), chosen=True).why_not
