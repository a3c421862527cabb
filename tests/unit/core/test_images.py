"""Images before they travel: small files are unchanged, large ones are scaled down, other files are refused by name."""

from __future__ import annotations

import io
import math
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageChops, ImageStat

from core import images
from core.errors import ImageFileError, SaraiError
from core.images import PIXELS_PER_TOKEN, SMALL_BYTES, SPARE, read_image, user_turn
from core.omni_loop import OmniLoop
from skills import skills_pb2
from tests.servers import ROOT

TOKENS = 32
ROOM = SPARE * TOKENS * PIXELS_PER_TOKEN
LARGE = (600, 400)
"""A size with more than four times the pixels that are read as `TOKENS`."""
ORIENTATION = 0x0112
RED, BLUE = (220, 30, 30), (30, 30, 220)


def drawing(size: tuple[int, int] = (64, 48), mode: str = "RGB") -> Image.Image:
    """Return an image whose left half is red and whose right half is blue."""
    image = Image.new("RGB", size, RED)
    image.paste(BLUE, (size[0] // 2, 0, *size))
    return image.quantize(2) if mode == "P" else image.convert(mode)


def noise(size: tuple[int, int]) -> Image.Image:
    """Return an image that takes many bytes."""
    return Image.effect_noise(size, 90).convert("RGB")


def file_of(image: Image.Image, format_: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format_, **options)
    return file.getvalue()


def opened(image: skills_pb2.Image) -> Image.Image:
    return Image.open(io.BytesIO(image.data))


def differs(one: Image.Image, other: Image.Image) -> float:
    """Return the mean difference between two images in one size, 0 to 255."""
    same = [image.convert("RGB").resize((60, 40), Image.Resampling.BOX) for image in (one, other)]
    return max(ImageStat.Stat(ImageChops.difference(*same)).mean)


@pytest.mark.parametrize("format_", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_small_file_travels_as_it_is_whatever_its_name(tmp_path: Path, format_: str) -> None:
    path = tmp_path / "picture.txt"
    path.write_bytes(data := file_of(drawing(), format_))
    assert read_image(path) == read_image(str(path)) == read_image(data) == skills_pb2.Image(data=data)
    assert read_image(path, max_tokens=64) == skills_pb2.Image(data=data, max_tokens=64)


@pytest.mark.parametrize(
    ("format_", "mode", "travels_as"),
    [
        ("JPEG", "RGB", ("JPEG", "RGB")),
        ("JPEG", "L", ("JPEG", "L")),
        ("JPEG", "CMYK", ("JPEG", "CMYK")),
        ("PNG", "RGB", ("PNG", "RGB")),
        ("PNG", "RGBA", ("PNG", "RGBA")),
        ("PNG", "LA", ("PNG", "LA")),
        ("PNG", "1", ("PNG", "L")),
        ("PNG", "P", ("PNG", "RGB")),
        ("PNG", "I;16", ("PNG", "I;16")),
        ("WEBP", "RGB", ("PNG", "RGB")),
        ("GIF", "P", ("PNG", "RGB")),
        ("BMP", "RGB", ("PNG", "RGB")),
    ],
)
def test_large_image_is_scaled_down_and_looks_the_same(format_: str, mode: str, travels_as: tuple[str, str]) -> None:
    image = Image.new("I;16", LARGE, 40_000) if mode == "I;16" else drawing(LARGE, mode)
    data = file_of(image, format_)
    travels = read_image(data, max_tokens=TOKENS)
    scaled = opened(travels)
    assert (scaled.format, scaled.mode) == travels_as
    assert 0.98 * ROOM < math.prod(scaled.size) <= ROOM
    assert scaled.width / scaled.height == pytest.approx(LARGE[0] / LARGE[1], rel=0.01)
    assert read_image(data, max_tokens=TOKENS) == travels, "the same bytes always, so that their hash is known"
    if mode == "I;16":
        assert scaled.getpixel((9, 9)) == 40_000
    else:
        assert differs(scaled, image) < 3


def test_more_tokens_leave_more_pixels() -> None:
    image, bounds = drawing((1300, 1000)), (16, 64, 576)
    sizes = [math.prod(opened(read_image(image, max_tokens=tokens)).size) for tokens in bounds]
    assert sizes == pytest.approx([SPARE * tokens * PIXELS_PER_TOKEN for tokens in bounds], rel=0.03)


def test_file_of_many_bytes_is_scaled_down_unless_that_makes_it_larger(monkeypatch: pytest.MonkeyPatch) -> None:
    small, tokens = SMALL_BYTES // 16, 576 // 16  # noise of the usual size takes half a second
    monkeypatch.setattr(images, "SMALL_BYTES", small)
    bulky = file_of(noise((350, 300)), "BMP")
    assert len(bulky) > small
    assert len(read_image(bulky, max_tokens=tokens).data) < len(bulky)
    dense = file_of(noise((320, 225)), "JPEG", quality=100, subsampling=0)
    assert len(dense) > small
    assert len(read_image(dense, max_tokens=tokens).data) < len(dense)
    packed = file_of(noise((350, 325)), "JPEG", quality=60)
    assert read_image(packed, max_tokens=tokens).data == packed


def test_image_is_never_scaled_up() -> None:
    assert opened(read_image(file_of(noise((800, 600)), "BMP"))).size == (800, 600)


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP"])
def test_scaled_image_is_turned_as_its_exif_data_say_and_says_so_no_more(format_: str) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6  # a quarter turn to the right: what is on the left is shown at the top
    scaled = opened(read_image(file_of(drawing(LARGE), format_, exif=exif), max_tokens=TOKENS))
    assert scaled.width < scaled.height
    assert not scaled.getexif()
    top, bottom = (scaled.convert("RGB").getpixel((scaled.width // 2, y)) for y in (10, scaled.height - 10))
    assert top == pytest.approx(RED, abs=12)
    assert bottom == pytest.approx(BLUE, abs=12)


def test_colour_profile_stays() -> None:
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for format_ in ("JPEG", "PNG"):
        scaled = opened(read_image(file_of(drawing(LARGE), format_, icc_profile=profile), max_tokens=TOKENS))
        assert scaled.info["icc_profile"] == profile


def test_transparent_colour_stays_transparent() -> None:
    image = drawing(LARGE, "P")
    clear = image.getpixel((0, 0))
    scaled = opened(read_image(file_of(image, "PNG", transparency=clear), max_tokens=TOKENS))
    assert scaled.mode == "RGBA"
    assert [scaled.getpixel((x, 9))[3] for x in (9, scaled.width - 9)] == [0, 255]  # type: ignore[index]


def test_image_of_pillows_travels_without_loss() -> None:
    image = drawing()
    sent = opened(read_image(image, max_tokens=9))
    assert sent.format == "PNG"
    assert sent.tobytes() == image.tobytes()
    assert opened(read_image(drawing(mode="CMYK"))).mode == "RGB"
    assert read_image(image) == read_image(image)


def test_image_that_was_read_is_not_read_again() -> None:
    image = read_image(drawing(), max_tokens=9)
    assert read_image(image, max_tokens=700) is image
    by_hash = skills_pb2.Image(sha256=bytes(32))
    assert user_turn("?", images=[by_hash]).parts[0].image == by_hash


def test_turn_shows_images_in_their_order_and_then_asks() -> None:
    one, two = file_of(drawing(), "PNG"), file_of(drawing(), "BMP")
    turn = user_turn("What is in the images?", images=[one, two], max_tokens=16)
    assert (turn.role, turn.content) == ("user", "")
    assert [part.WhichOneof("kind") for part in turn.parts] == ["image", "image", "text"]
    assert [part.image.data for part in turn.parts[:2]] == [one, two]
    assert {part.image.max_tokens for part in turn.parts[:2]} == {16}
    assert turn.parts[2].text == "What is in the images?"
    assert user_turn("Hi") == skills_pb2.Message(role="user", content="Hi")


READ = "images that are read are PNG, JPEG, WebP, GIF and BMP"
HEIF = struct.pack(">I4s4s", 24, b"ftyp", b"heic") + bytes(12)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "the file is empty"),
        (b"%PDF-1.7\n", f"this is a PDF; {READ}"),
        (HEIF, f"this is a HEIC image; {READ}"),
        (HEIF.replace(b"heic", b"avif"), "this is an AVIF image"),
        (HEIF.replace(b"heic", b"isom"), "this is a video"),
        (file_of(drawing(), "TIFF"), "this is a TIFF image"),
        (file_of(drawing(), "ICO"), "this is an icon (ICO)"),
        (b"PK\x03\x04" + bytes(30), "this is a ZIP archive or an office document"),
        (b'<?xml version="1.0"?><svg width="9"/>', "this is an SVG drawing"),
        (b"<!DOCTYPE html><title>404</title>", "this is a web page, perhaps in place of a download that failed"),
        ("Está aquí".encode() * 200, f"this is a text; {READ}"),
        (bytes(range(256)), f"this is no image that is known here; {READ}"),
        (b"RIFF\xff\xfe34WAVEfmt ", "this is no image that is known here"),
    ],
)
def test_what_is_no_image_is_refused_with_its_name_and_kind(tmp_path: Path, data: bytes, said: str) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(data)
    with pytest.raises(ImageFileError) as caught:
        read_image(path)
    assert str(caught.value).startswith(f"{path}: {said}")
    with pytest.raises(ImageFileError, match=r"^standard input: "):
        read_image(data, name="standard input")


@pytest.mark.parametrize("format_", ["JPEG", "WEBP", "GIF", "BMP"])
@pytest.mark.parametrize("tokens", [576, TOKENS])
def test_image_that_is_cut_off_is_refused(format_: str, tokens: int) -> None:
    data = file_of(noise(LARGE), format_)
    for end in (20, len(data) // 2):
        with pytest.raises(ImageFileError, match=r"^the image: this \w+ image is broken or cut off \("):
            read_image(data[:end], max_tokens=tokens)


def test_png_that_pillow_refuses_is_left_to_the_skill_which_knows_more() -> None:
    data = file_of(noise((320, 240)), "PNG")[:9000]
    assert read_image(data).data == data


def test_image_of_far_too_many_pixels_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert read_image(file_of(drawing((40, 40)), "PNG")).data, "which Pillow warns of"
    with pytest.raises(ImageFileError, match=r"this PNG image has more than 2,000 pixels$"):
        read_image(file_of(drawing((50, 50)), "PNG"))


def test_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(ImageFileError, match=r"x\.png: there is no such file$"):
        read_image(tmp_path / "x.png")
    with pytest.raises(ImageFileError, match=r"this is a folder; give its files one by one$") as caught:
        read_image(tmp_path)
    assert isinstance(caught.value, SaraiError)
    assert isinstance(caught.value, ValueError)
    assert caught.value.caller_fault
    with pytest.raises(ImageFileError, match=r"cannot be read: File name too long$"):
        read_image("x" * 5000)


def test_device_that_never_ends_is_not_read_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_FILE_BYTES", 3 << 20)  # reading 256 MiB takes half a second
    with pytest.raises(ImageFileError, match=r"^/dev/zero: has more than 3 MiB$"):
        read_image("/dev/zero")


@pytest.mark.parametrize("address", ["https://example.org/x.png", "file:///etc/passwd", "data:image/png;base64,AAAA"])
def test_nothing_is_fetched(address: str) -> None:
    for given in (address, Path(address)):
        with pytest.raises(ImageFileError, match="this is an address, and nothing is fetched"):
            read_image(given)


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (Image.new("RGB", (0, 10)), "the image: has no pixels"),
        (Image.new("La", (10, 10)), "the image: cannot be made a PNG"),
        (Image.open(io.BytesIO(file_of(noise((200, 200)), "JPEG")[:-4000])), "the image: cannot be made a PNG"),
    ],
)
def test_image_of_pillows_that_cannot_travel_is_refused(image: Image.Image, said: str) -> None:
    with pytest.raises(ImageFileError, match=said):
        read_image(image)


@pytest.mark.parametrize("one", ["photo.jpg", b"GIF89a", Path("photo.jpg"), Image.new("RGB", (9, 9))])
def test_one_image_instead_of_several_is_a_type_error(one: Any) -> None:
    with pytest.raises(TypeError, match=r"images are several: give \[image\], not the "):
        user_turn("What is this?", images=one)
    with pytest.raises(TypeError, match="images are several"):
        OmniLoop().run("What is this?", images=one)


def test_anything_else_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="an image is a path, bytes, or an image of Pillow's, not int"):
        read_image(7)  # type: ignore[arg-type]


WITHOUT_PILLOW = """
import sys
sys.modules["PIL"] = None
from sarai import errors, read_image
small, large = (open(path, "rb").read() for path in sys.argv[1:])
assert read_image(small).data == small
try:
    read_image(sys.argv[2])
except errors.ImageFileError as error:
    print(error)
"""


def test_small_file_needs_no_pillow_and_a_large_one_says_how_to_get_it(tmp_path: Path) -> None:
    small, large = tmp_path / "small", tmp_path / "large"
    small.write_bytes(file_of(drawing(), "PNG"))
    large.write_bytes(file_of(noise((800, 600)), "BMP"))
    command = [sys.executable, "-c", WITHOUT_PILLOW, str(small), str(large)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout == (
        f"{large}: has 1.4 MiB, and to scale it down before it travels takes Pillow: "
        "pip install 'sarai-skills[images]'\n"
    )
