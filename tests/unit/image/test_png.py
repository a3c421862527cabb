"""A PNG is taken when its pixels are whole, whatever else it holds, and refused with the reason when they are not."""

from __future__ import annotations

import functools
import random
import struct
import time
import tracemalloc
import zlib

import pytest
from PIL import Image

from skills.runtime.pictures.errors import BadPictureError
from skills.runtime.pictures.png import MOST_INFLATED
from skills.skill_image.jobs import Job
from skills.skill_image.normalizing import normalize
from tests.pictures import (
    BLUE,
    GREEN,
    PNG_SIGNATURE,
    RED,
    WHITE,
    animated,
    chunk,
    chunks,
    corners,
    decoded,
    encoded,
    exif,
    near,
    quarters,
    swapped_profile,
    with_chunks,
    wrong_checksum,
)

JOB = Job(min_pixels=1024, max_pixels=1 << 20, encoding="png", quality=85, decode_pixels=1 << 22)
WHOLE = encoded(quarters())
FOUR = [RED, GREEN, BLUE, WHITE]
MIB = 1 << 20


@functools.cache
def deflated(num_bytes: int) -> bytes:
    """Return zeros, deflated: one MiB is repeated, as deflating 200 of them takes half a second."""
    deflating = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    mib = deflating.compress(bytes(MIB)) + deflating.flush(zlib.Z_FULL_FLUSH)
    rest = deflating.compress(bytes(num_bytes % MIB)) + deflating.flush()
    return b"\x78\x01" + num_bytes // MIB * mib + rest + struct.pack(">HH", num_bytes % 65521, 1)


def long_profile(num_bytes: int) -> bytes:
    """Return a profile with this many more bytes in it, which do not deflate."""
    profile = swapped_profile() + random.Random(1).randbytes(num_bytes)
    return struct.pack(">I", len(profile)) + profile[4:]


def profile_chunk(profile: bytes) -> bytes:
    return chunk(b"iCCP", b"name\0\0" + zlib.compress(profile, 0))


def profile_bomb(num_bytes: int) -> bytes:
    return chunk(b"iCCP", b"name\0\0" + deflated(num_bytes))


# Chunks that are not critical, in all the states in which files have them.
ASIDE: dict[str, list[bytes]] = {
    "long text": [chunk(b"tEXt", b"Comment\0" + b"x" * 3 * MIB)],
    "long deflated text": [chunk(b"zTXt", b"Comment\0\0" + deflated(3 * MIB))],
    "long international text": [chunk(b"iTXt", b"Comment\0\0\0\0\0" + b"x" * 3 * MIB)],
    "long deflated international text": [chunk(b"iTXt", b"Comment\0\1\0\0\0" + deflated(3 * MIB))],
    "much text": [chunk(b"zTXt", b"Comment %d\0\0" % number + deflated(MIB)) for number in range(70)],
    "text bomb": [chunk(b"zTXt", b"Raw profile type exif\0\0" + deflated(100 * MIB))],
    "international text bomb": [chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + deflated(100 * MIB))],
    "profile bomb": [profile_bomb(100 * MIB)],
    "text deflated in an unknown way": [chunk(b"zTXt", b"Raw profile type exif\0\7" + deflated(10))],
    "profile deflated in an unknown way": [chunk(b"iCCP", b"name\0\7" + deflated(10))],
    "profile cut off": [chunk(b"iCCP", b"name")],
    "animation without frames": [chunk(b"acTL", bytes(8)), chunk(b"fcTL", b"nothing")],
    "animation cut off": [chunk(b"acTL", b"\0")],
    "frames without an animation": [chunk(b"fdAT", b"\0\0\0\7pixels")],
    "clear colour cut off": [chunk(b"tRNS", b"\0\1")],
    **{
        f"{kind} cut off": [chunk(kind.encode(), b"\0")]
        for kind in ("gAMA", "cHRM", "sRGB", "pHYs", "bKGD", "sBIT", "tIME", "eXIf", "iTXt", "zTXt", "tEXt")
    },
    **{
        f"{kind} with a wrong checksum": [wrong_checksum(chunk(kind.encode(), content))]
        for kind, content in {
            "tEXt": b"Comment\0text",
            "zTXt": b"Comment\0\0" + deflated(10),
            "iTXt": b"Comment\0\0\0\0\0text",
            "gAMA": struct.pack(">I", 45455),
            "cHRM": bytes(32),
            "pHYs": bytes(9),
            "tIME": bytes(7),
            "iCCP": b"name\0\0" + deflated(10),
            "eXIf": b"MM\0*",
            "acTL": struct.pack(">II", 1, 0),
            "prVt": b"a program's own",
        }.items()
    },
}


@pytest.mark.parametrize("at", [1, -1], ids=["before the pixels", "after them"])
@pytest.mark.parametrize("name", ASIDE)
def test_whole_picture_is_taken_whatever_else_the_file_has(name: str, at: int) -> None:
    _, image = normalize(with_chunks(WHOLE, *ASIDE[name], at=at), JOB)
    assert decoded(image).tobytes() == quarters().tobytes()


@pytest.mark.parametrize(
    "end",
    [b"", chunk(b"tEXt", b"cut off")[:-6], chunk(b"tEXt", b"cut off")[:3], b"\0\0\0\5no chunk", b"\xff" * 40],
    ids=["nothing", "a chunk cut off", "a length cut off", "a name that is none", "rubbish"],
)
def test_whole_picture_is_taken_however_its_file_ends(end: bytes) -> None:
    for image in (WHOLE[:-12] + end, WHOLE + end):
        assert corners(decoded(normalize(image, JOB)[1])) == FOUR


@pytest.mark.parametrize("num_bytes", [2 * MIB, 12 * MIB])
def test_long_profile_is_followed(num_bytes: int) -> None:
    image = with_chunks(encoded(Image.new("RGB", (64, 64), RED)), profile_chunk(long_profile(num_bytes)))
    assert near(decoded(normalize(image, JOB)[1]).getpixel((8, 8)), BLUE)


def test_profile_with_a_wrong_checksum_is_followed() -> None:
    image = with_chunks(encoded(Image.new("RGB", (64, 64), RED)), wrong_checksum(profile_chunk(swapped_profile())))
    assert near(decoded(normalize(image, JOB)[1]).getpixel((8, 8)), BLUE)


def test_clear_colour_with_a_wrong_checksum_is_clear() -> None:
    image = with_chunks(encoded(Image.new("RGB", (64, 64))), wrong_checksum(chunk(b"tRNS", bytes(6))))
    assert decoded(normalize(image, JOB)[1]).getpixel((8, 8)) == WHITE


@pytest.mark.parametrize(
    "part",
    [
        chunk(b"zTXt", b"Raw profile type exif\0\0" + deflated(200 * MIB)),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + deflated(200 * MIB)),
        profile_bomb(200 * MIB),
    ],
    ids=["text", "international text", "profile"],
)
def test_bomb_next_to_the_pixels_costs_no_more_memory_than_a_long_profile(part: bytes) -> None:
    image = with_chunks(WHOLE, part)
    tracemalloc.start()
    try:
        normalize(image, JOB)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 3 * MOST_INFLATED


def test_many_bombs_next_to_the_pixels_cost_the_time_of_one() -> None:
    image = with_chunks(WHOLE, *[profile_bomb(MOST_INFLATED)] * 300)
    begin_s = time.process_time()
    normalize(image, JOB)
    assert time.process_time() - begin_s < 1  # one takes some 50 ms, all of them 5 s and more


@pytest.mark.parametrize("at", [1, -1], ids=["before the pixels", "after them"])
@pytest.mark.parametrize(
    "part",
    [
        chunk(b"eXIf", exif(6)[6:]),
        wrong_checksum(chunk(b"eXIf", exif(6)[6:])),
        chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n  34\n" + exif(6).hex().encode())),
        chunk(b"tEXt", b"Raw profile type exif\0\nexif\n  34\n" + exif(6).hex().encode()),
        chunk(b"iTXt", b'XML:com.adobe.xmp\0\0\0\0\0<rdf:Description tiff:Orientation="6"/>'),
    ],
    ids=["eXIf", "eXIf with a wrong checksum", "deflated custom text", "custom text", "XMP"],
)
def test_orientation_is_found_wherever_programs_put_it(part: bytes, at: int) -> None:
    stored = encoded(quarters().transpose(Image.Transpose.ROTATE_90))
    about, image = normalize(with_chunks(stored, part, at=at), JOB)
    assert about.orientation == 6
    assert corners(decoded(image)) == FOUR


def test_animation_of_one_frame_is_none() -> None:
    one = with_chunks(WHOLE, chunk(b"acTL", struct.pack(">II", 1, 0)))
    assert not normalize(one, JOB)[0].animated
    assert normalize(animated("PNG"), JOB)[0].animated


def damaged(image: bytes, kind: bytes, *, content: bool) -> bytes:
    """With a wrong bit in the chunk's content, or in its checksum."""
    at = image.index(kind) + 4
    at += 2 if content else struct.unpack_from(">I", image, at - 8)[0]
    return image[:at] + bytes([image[at] ^ 1]) + image[at + 1 :]


PALETTE = encoded(quarters().quantize(4))
UNSOUND = {
    "pixels with a wrong checksum": (damaged(WHOLE, b"IDAT", content=False), "IDAT chunk has a wrong checksum"),
    "wrong pixels": (damaged(WHOLE, b"IDAT", content=True), "IDAT chunk has a wrong checksum"),
    "header with a wrong checksum": (damaged(WHOLE, b"IHDR", content=False), "IHDR chunk has a wrong checksum"),
    "wrong header": (damaged(WHOLE, b"IHDR", content=True), "IHDR chunk has a wrong checksum"),
    "palette with a wrong checksum": (damaged(PALETTE, b"PLTE", content=False), "PLTE chunk has a wrong checksum"),
    "unknown critical chunk": (with_chunks(WHOLE, chunk(b"CgBI", bytes(4))), "unknown kind: CgBI"),
    "two headers": (with_chunks(WHOLE, chunk(*chunks(WHOLE)[0])), "second IHDR"),
    "no header": (PNG_SIGNATURE + WHOLE[33:], "begin with an IHDR"),
    "header cut off": (WHOLE[:20], "IHDR chunk is not whole"),
    "header of another length": (PNG_SIGNATURE + chunk(b"IHDR", bytes(12)) + WHOLE[33:], "begin with an IHDR"),
    "no pixels": (WHOLE[:33] + WHOLE[-12:], "no IDAT"),
    "nothing at all": (PNG_SIGNATURE, "before its pixels"),
    "pixels cut off": (WHOLE[:-20], "IDAT chunk is not whole"),
    "cut off before the pixels": (with_chunks(WHOLE, chunk(b"tEXt", bytes(99)))[:80], "tEXt chunk is not whole"),
    "rubbish before the pixels": (WHOLE[:33] + b"\0\0\0\0\1\2\3\4" + WHOLE[33:], "before its pixels"),
    "too few pixels": (PNG_SIGNATURE + WHOLE[8:33] + chunk(b"IDAT", zlib.compress(b"\0")) + WHOLE[-12:], "cut off"),
    "unknown colours": (
        PNG_SIGNATURE + chunk(b"IHDR", struct.pack(">IIBBBBB", 64, 64, 8, 5, 0, 0, 0)) + WHOLE[33:], "PNG: "
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", UNSOUND)
def test_unsound_picture_is_refused_with_the_true_reason(name: str) -> None:
    image, words = UNSOUND[name]
    with pytest.raises(BadPictureError) as refused:
        normalize(image, JOB)
    assert words in str(refused.value)


def test_one_wrong_bit_never_goes_through_as_other_pixels() -> None:
    wanted = decoded(normalize(WHOLE, JOB)[1]).tobytes()
    for at in range(8, len(WHOLE)):
        for bit in range(8):
            image = WHOLE[:at] + bytes([WHOLE[at] ^ 1 << bit]) + WHOLE[at + 1 :]
            try:
                _, result = normalize(image, JOB)
            except BadPictureError:
                continue
            assert decoded(result).tobytes() == wanted, (at, bit)
