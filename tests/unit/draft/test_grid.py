"""What an image is read as: its grid, its pixels and its key."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from skills.runtime.pictures.errors import BadPictureError
from skills.skill_draft.vision import limits
from skills.skill_draft.vision.grid import grid_of
from skills.skill_draft.vision.limits import FORMATS
from skills.skill_draft.vision.pixels import read_pixels
from tests.pictures import BLUE, GREEN, RED, WHITE, animated, encoded, exif, near, png_header, quarters, turned

FOUR = [RED, GREEN, BLUE, WHITE]


def read(image: bytes, max_tokens: int = 576) -> Image.Image:
    pixels = read_pixels(image, max_tokens)
    return Image.frombytes("RGB", pixels.size, pixels.data)


def looks_like_quarters(picture: Image.Image) -> bool:
    width, height = picture.size
    places = [(x, y) for y in (height // 4, 3 * height // 4) for x in (width // 4, 3 * width // 4)]
    return all(near(picture.getpixel(place), wanted) for place, wanted in zip(places, FOUR, strict=True))


@pytest.mark.parametrize(
    ("size", "max_tokens", "grid"),
    [
        ((96, 96), 576, (3, 3)), ((64, 64), 576, (3, 3)), ((512, 512), 576, (16, 16)), ((512, 512), 256, (16, 16)),
        ((1024, 1024), 1024, (32, 32)), ((1024, 1024), 576, (24, 24)), ((1280, 720), 1024, (40, 22)),
        ((4032, 3024), 576, (27, 20)), ((1, 1), 576, (3, 3)), ((100, 60), 576, (4, 3)), ((1, 200), 576, (1, 40)),
        ((96, 96), 8, (4, 2)), ((100, 1), 8, (8, 1)),
    ],
)  # fmt: skip
def test_grids_of_usual_and_odd_sizes(size: tuple[int, int], max_tokens: int, grid: tuple[int, int]) -> None:
    assert grid_of(*size, max_tokens) == grid


@pytest.mark.parametrize("kind", FORMATS)
def test_each_format_is_read(kind: str) -> None:
    assert looks_like_quarters(read(encoded(quarters(192, 192), kind)))


@pytest.mark.parametrize("kind", ["TIFF", "PPM", "ICO", "TGA", "PCX"])
def test_no_other_format_is_read(kind: str) -> None:
    with pytest.raises(BadPictureError):
        read(encoded(quarters(192, 192), kind))


def test_image_comes_upright_on_white_in_rgb_whatever_its_mode() -> None:
    picture = quarters(192, 192)
    grey, alpha = Image.new("L", (64, 64), 255), Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    assert looks_like_quarters(read(turned(quarters(96, 96), 6)))
    assert looks_like_quarters(read(encoded(picture.convert("CMYK"), "JPEG", quality=100)))
    assert looks_like_quarters(read(encoded(picture.quantize(4))))
    for white in (
        encoded(alpha),
        encoded(grey),
        encoded(Image.new("I;16", (64, 64), 65535)),
        encoded(grey.convert("1")),
    ):
        assert set(read(white).tobytes()) == {255}


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_first_frame_of_an_animation_is_read(kind: str) -> None:
    assert looks_like_quarters(read(animated(kind, quarters(192, 192))))


def test_large_jpeg_is_shrunk_while_it_is_decoded_and_turned_all_the_same() -> None:
    stored = quarters(3000, 4000).transpose(Image.Transpose.ROTATE_90)
    picture = read(encoded(stored, "JPEG", exif=exif(6)), 64)
    assert picture.size == (6 * 32, 9 * 32)
    assert looks_like_quarters(picture)


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (b"", "is empty"), (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "is none of"),
        (b"PK\3\4" + bytes(100), "none of"),
        (png_header(20_000, 20_000), "more than 40000000 pixels"),
        (encoded(Image.new("L", (1, 1000))), "at most 200 times"),
        (encoded(quarters())[:-40], "cut off"), (encoded(quarters(), "JPEG")[:300], "broken"),
    ],
)  # fmt: skip
def test_what_is_no_image_is_refused_with_its_reason(image: bytes, says: str) -> None:
    with pytest.raises(BadPictureError, match=says):
        read(image)


@pytest.mark.parametrize(
    ("kind", "options", "size", "fits"),
    [
        ("JPEG", {}, (700, 500), True), ("JPEG", {"progressive": True}, (700, 500), False),
        ("PNG", {}, (400, 400), True), ("PNG", {}, (500, 400), False), ("WEBP", {}, (500, 300), False),
    ],
)  # fmt: skip
def test_pixels_are_bounded_by_the_memory_that_their_format_takes(
    kind: str, options: dict[str, bool], size: tuple[int, int], fits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "DECODING_BYTES", limits.DECODING_BYTES // 100)  # of what is allowed, a hundredth
    image = encoded(Image.new("RGB", size), kind, **options)
    if fits:
        assert read_pixels(image, 64).across
    else:
        with pytest.raises(BadPictureError, match="pixels of such a file"):
            read_pixels(image, 64)


def test_key_is_that_of_all_that_determines_the_rows() -> None:
    def key(picture: Image.Image, kind: str = "PNG", max_tokens: int = 576, tower: bytes = b"a" * 32) -> bytes:
        out = io.BytesIO()
        picture.save(out, kind)
        return read_pixels(out.getvalue(), max_tokens).key(tower)

    picture, other = quarters(192, 96), quarters(192, 96)
    other.putpixel((100, 50), (1, 2, 3))
    one = key(picture)
    assert one == key(picture, "BMP"), "another file, the same pixels"
    wide, high = Image.new("RGB", (192, 96)), Image.new("RGB", (96, 192))
    keys = [one, key(other), key(picture, max_tokens=9), key(picture, tower=b"b" * 32), key(wide), key(high)]
    assert len(set(keys)) == len(keys)
