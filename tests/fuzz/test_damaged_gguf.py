"""Model files that are cut off or changed anywhere: each is an error in words, or has a header."""

from __future__ import annotations

import random
import struct
import time
from pathlib import Path

import pytest

from core.errors import ModelFileError
from core.models.gguf_file import read_gguf
from tests.servers import TINY


def test_a_file_that_is_cut_off_anywhere_is_an_error(tmp_path: Path) -> None:
    path, whole = tmp_path / "cut.gguf", TINY.read_bytes()
    places = [*range(4, 400), *random.Random(1).sample(range(400, len(whole)), 300), len(whole) - 1]
    for place in places:
        path.write_bytes(whole[:place])
        with pytest.raises(ModelFileError, match="cut off"):
            read_gguf(path)
    with pytest.raises(ModelFileError, match=f"it has {len(whole) - 1:,} of {len(whole):,} bytes"):
        read_gguf(path)


def test_bytes_that_changed_anywhere_give_an_error_or_a_head(tmp_path: Path) -> None:
    whole, dice = TINY.read_bytes(), random.Random(2)
    start = min(len(whole), 20_000)
    path = tmp_path / "changed.gguf"
    outcomes = set()
    for _ in range(400):
        changed = bytearray(whole)
        for place in dice.choices(range(start), k=dice.choice((1, 1, 4))):
            changed[place] = dice.randrange(256)
        path.write_bytes(changed)
        try:
            read_gguf(path)
            outcomes.add("head")
        except ModelFileError:
            outcomes.add("error")
    assert outcomes == {"head", "error"}


def test_millions_of_strings_are_refused_in_seconds(tmp_path: Path) -> None:
    path = tmp_path / "strings.gguf"
    head = struct.pack("<4sIQQQ1sIIQ", b"GGUF", 3, 0, 1, 1, b"k", 9, 8, 5_000_000)
    path.write_bytes(head + bytes(41_000_000))
    begin = time.process_time()
    with pytest.raises(ModelFileError):
        read_gguf(path)
    assert time.process_time() - begin < 10
