"""Read the header of an untrusted GGUF file: the result is that of the official `gguf` library, or an error."""

from __future__ import annotations

import struct
import time
from pathlib import Path

import pytest
from gguf import GGUFReader

from core.errors import ModelFileError
from core.models.gguf_file import read_gguf
from tests.servers import TINY


def test_it_reads_what_the_library_reads() -> None:
    ours, theirs = read_gguf(TINY), GGUFReader(TINY)
    assert [(each.name, each.type, list(each.shape), each.size_bytes) for each in ours.tensors] == [
        (each.name, each.tensor_type.name, each.shape.tolist(), each.n_bytes) for each in theirs.tensors
    ]
    fields = {name: field for name, field in theirs.fields.items() if not name.startswith("GGUF.")}
    assert set(ours.values) == set(fields)
    for name, field in fields.items():
        if name in ours.lengths:
            assert ours.lengths[name] == len(field.data)
        else:
            assert ours.values[name] == field.contents()


def test_every_type_has_the_size_that_the_library_knows() -> None:
    from gguf.constants import GGML_QUANT_SIZES

    from skills.gguf import _TYPES

    known = {kind.value: (kind.name, *sizes) for kind, sizes in GGML_QUANT_SIZES.items()}
    assert all(known[kind] == entry for kind, entry in _TYPES.items())


def refused(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    begin = time.process_time()
    with pytest.raises(ModelFileError) as error:
        read_gguf(path)
    assert time.process_time() - begin < 10
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("content", [b"", b"GG", b"PK\x03\x04", b"# text", b"\x00" * 100, b"GGUF" + b"\xff" * 100])
def test_what_is_no_gguf_is_an_error(tmp_path: Path, content: bytes) -> None:
    assert "GGUF" in refused(tmp_path / "no.gguf", content)


def head(*parts: bytes, tensors: int = 0, values: int = 1) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, values) + b"".join(parts)


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


HUGE = 2**63 - 1


@pytest.mark.parametrize(
    "content",
    [
        head(values=HUGE),
        head(tensors=HUGE, values=0),
        head(struct.pack("<Q", HUGE)),
        head(text(b"k"), struct.pack("<IQ", 8, HUGE)),
        head(text(b"k"), struct.pack("<I", 99)),
        head(text(b"k"), struct.pack("<IIQ", 9, 8, HUGE)),
        head(text(b"k"), struct.pack("<IIQ", 9, 4, HUGE)),
        head(text(b"k"), struct.pack("<IIQ", 9, 9, 1), b"\x00" * 64),
        head(text(b"general.alignment"), struct.pack("<II", 4, 0)),
        head(text(b"t"), struct.pack("<I", 2**31), tensors=1, values=0),
        head(text(b"t"), struct.pack("<IQQIQ", 2, HUGE, HUGE, 0, 0), tensors=1, values=0),
        head(text(b"t"), struct.pack("<IQIQ", 1, 31, 8, 0), tensors=1, values=0),
        head(text(b"t"), struct.pack("<IQIQ", 1, 0, 0, 0), tensors=1, values=0),
        head(text(b"t"), struct.pack("<IQIQ", 1, 32, 77, 0), tensors=1, values=0),
        head(text(b"t"), struct.pack("<IQIQ", 1, 32, 0, HUGE), tensors=1, values=0),
    ],
    ids=range(15),
)
def test_a_file_that_is_made_to_do_harm_is_an_error(tmp_path: Path, content: bytes) -> None:
    refused(tmp_path / "bad.gguf", content)
