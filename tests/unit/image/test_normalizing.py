"""What becomes of pictures: upright, sRGB on white, whole tiles; and what is refused."""

from __future__ import annotations

import dataclasses

import pytest
from PIL import Image

from skills.runtime.pictures.errors import BadPictureError
from skills.skill_image.jobs import Job, Picture
from skills.skill_image.normalizing import normalize
from skills.skill_image.phash import perceptual_hash
from tests.pictures import (
    BLUE,
    GREEN,
    RED,
    SIDES,
    WHITE,
    animated,
    corners,
    decoded,
    encoded,
    exif,
    gif_frame,
    gradient,
    near,
    png_header,
    quarters,
    swapped_profile,
    tiff,
    turned,
)

# Nothing is resized but where a test is about it.
JOB = Job(min_pixels=1024, max_pixels=1 << 20, encoding="png", quality=85, decode_pixels=1 << 22)
FOUR = [RED, GREEN, BLUE, WHITE]


def normalized(image: bytes, **changes: object) -> tuple[Picture, Image.Image]:
    about, result = normalize(image, dataclasses.replace(JOB, **changes))  # type: ignore[arg-type]
    picture = decoded(result)
    assert (picture.mode, picture.size) == ("RGB", (about.width, about.height))
    return about, picture


@pytest.mark.parametrize("orientation", SIDES)
def test_every_orientation_comes_out_upright(orientation: int) -> None:
    about, picture = normalized(turned(quarters(), orientation))
    assert (about.orientation, picture.size) == (orientation, (128, 64))
    assert corners(picture) == FOUR
    assert (about.source_width, about.source_height) == ((128, 64) if orientation < 5 else (64, 128))


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "TIFF"])
def test_orientation_is_read_from_every_format_that_has_one(kind: str) -> None:
    stored = quarters().transpose(Image.Transpose.ROTATE_90)
    about, picture = normalized(encoded(stored, kind, exif=exif(6), **({"quality": 95} if kind != "TIFF" else {})))
    assert (about.orientation, about.source_format) == (6, kind.lower())
    for found, wanted in zip(corners(picture), FOUR, strict=True):
        assert isinstance(found, tuple)
        assert all(abs(a - b) < 12 for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize("orientation", [0, 9, 300])
def test_orientation_that_does_not_exist_counts_as_upright(orientation: int) -> None:
    about, picture = normalized(encoded(quarters(), exif=exif(orientation)))
    assert about.orientation == 1
    assert corners(picture) == FOUR


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_clear_becomes_white(mode: str) -> None:
    picture = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    picture.paste((0, 0, 0, 255), (0, 0, 32, 64))
    _, result = normalized(encoded(picture.convert(mode)))
    assert (result.getpixel((8, 8)), result.getpixel((56, 8))) == ((0, 0, 0), WHITE)


def test_what_is_half_clear_becomes_half_white() -> None:
    _, result = normalized(encoded(Image.new("RGBA", (64, 64), (255, 0, 0, 128))))
    assert result.getpixel((8, 8)) == (255, 127, 127)


def test_palette_becomes_its_colours() -> None:
    about, result = normalized(encoded(quarters().quantize(4), "GIF"))
    assert about.source_format == "gif"
    assert corners(result) == FOUR


def test_large_palette_picture_is_shrunk_by_its_colours_not_its_indices() -> None:
    _, result = normalized(encoded(quarters(1024, 1024).quantize(4)), max_pixels=64 * 64)
    assert corners(result) == FOUR


def test_colours_of_print_become_colours_of_screens() -> None:
    _, result = normalized(encoded(Image.new("CMYK", (64, 64), (0, 255, 255, 0)), "TIFF"))
    assert result.getpixel((8, 8)) == RED


def test_sixteen_bits_become_their_upper_eight() -> None:
    picture = Image.new("I;16", (256, 32))
    for column in range(256):
        for row in range(32):
            picture.putpixel((column, row), column * 256 + 77)
    for kind in ("PNG", "TIFF"):
        _, result = normalized(encoded(picture, kind))
        assert [result.getpixel((column, 5)) for column in range(256)] == [(value,) * 3 for value in range(256)]


def test_one_bit_becomes_black_and_white() -> None:
    picture = Image.new("1", (64, 64), 1)
    picture.paste(0, (0, 0, 32, 64))
    _, result = normalized(encoded(picture))
    assert (result.getpixel((8, 8)), result.getpixel((56, 8))) == ((0, 0, 0), WHITE)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_colours_follow_the_profile_of_the_file(kind: str) -> None:
    options = {"quality": 100} if kind in ("JPEG", "WEBP") else {}
    image = encoded(Image.new("RGB", (64, 64), RED), kind, icc_profile=swapped_profile(), **options)
    _, result = normalized(image)
    assert near(result.getpixel((8, 8)), BLUE)
    assert "icc_profile" not in result.info


def test_profile_is_followed_behind_transparency_and_palettes() -> None:
    clear = Image.new("RGBA", (64, 64), (255, 0, 0, 255))
    clear.paste((0, 0, 0, 0), (32, 0, 64, 64))
    _, result = normalized(encoded(clear, icc_profile=swapped_profile()))
    assert near(result.getpixel((8, 8)), BLUE)
    assert near(result.getpixel((56, 8)), WHITE)
    _, result = normalized(encoded(Image.new("RGB", (64, 64), RED).quantize(2), icc_profile=swapped_profile()))
    assert near(result.getpixel((8, 8)), BLUE)


@pytest.mark.parametrize("profile", [b"not a profile", b"\0" * 200])
def test_broken_profile_counts_for_nothing(profile: bytes) -> None:
    _, result = normalized(encoded(Image.new("RGB", (64, 64), RED), icc_profile=profile))
    assert result.getpixel((8, 8)) == RED


def test_profile_for_other_pixels_counts_for_nothing() -> None:
    _, result = normalized(
        encoded(Image.new("CMYK", (64, 64), (0, 255, 255, 0)), "TIFF", icc_profile=swapped_profile())
    )
    assert result.getpixel((8, 8)) == RED


def test_answer_holds_no_metadata() -> None:
    _, result = normalized(encoded(quarters(), exif=exif(3), icc_profile=swapped_profile()))
    assert not result.getexif()
    assert not {"exif", "icc_profile"} & result.info.keys()


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_first_frame_of_an_animation_is_taken(kind: str) -> None:
    about, picture = normalized(animated(kind))
    assert about.animated
    assert corners(picture) == FOUR


def test_first_frame_is_taken_wherever_its_file_is_cut_off_behind_it() -> None:
    image = animated("GIF")
    for end in range(image.rindex(b"!\xf9"), len(image)):
        assert corners(normalized(image[:end])[1]) == FOUR


def test_camera_picture_with_a_preview_is_not_animated() -> None:
    two = encoded(quarters(), "MPO", save_all=True, append_images=[Image.new("RGB", (32, 32))])
    about, _ = normalized(two)
    assert (about.source_format, about.animated) == ("jpeg", False)


def test_normalised_picture_stays_as_it_is() -> None:
    first, once = normalized(encoded(gradient(500, 333), "JPEG"))
    second, twice = normalized(encoded(once))
    assert once.tobytes() == twice.tobytes()
    assert first.perceptual_hash == second.perceptual_hash


@pytest.mark.parametrize(("encoding", "media_type"), [("png", "image/png"), ("webp-lossless", "image/webp")])
def test_lossless_encodings_hold_the_same_pixels(encoding: str, media_type: str) -> None:
    about, picture = normalized(encoded(quarters()), encoding=encoding)
    assert about.media_type == media_type
    assert picture.tobytes() == quarters().tobytes()


@pytest.mark.parametrize(("encoding", "size"), [("webp", (20_000, 128)), ("webp-lossless", (128, 20_000))])
def test_side_that_webp_cannot_have_is_refused_by_the_encoding(encoding: str, size: tuple[int, int]) -> None:
    image = encoded(Image.new("L", size))
    with pytest.raises(BadPictureError, match="at most 16383 pixels") as refused:
        normalize(image, dataclasses.replace(JOB, encoding=encoding, max_pixels=1 << 23))
    assert (refused.value.field, refused.value.fault) == ("encoding", "invalid")
    about, _ = normalized(image, max_pixels=1 << 23)
    assert max(about.width, about.height) == 20_000
    about, _ = normalize(image, dataclasses.replace(JOB, encoding=encoding))
    assert about.media_type == "image/webp"


@pytest.mark.parametrize("encoding", ["webp", "webp-lossless"])
def test_longest_side_that_webp_can_have_is_answered(encoding: str) -> None:
    long = encoded(Image.new("L", (16_352, 96)))
    about, _ = normalize(long, dataclasses.replace(JOB, encoding=encoding, max_pixels=1 << 23))
    assert about.width == 16_352


def test_quality_decides_the_size_of_lossy_webp() -> None:
    noise = Image.effect_noise((256, 256), 60).convert("RGB")
    sizes = [
        len(normalize(encoded(noise), dataclasses.replace(JOB, encoding="webp", quality=quality))[1])
        for quality in (10, 90)
    ]
    assert sizes[0] < sizes[1]


def test_same_picture_in_another_size_and_format_has_nearly_the_same_hash() -> None:
    picture = Image.effect_mandelbrot((512, 384), (-2.2, -1.2, 1.0, 1.2), 60)
    one, _ = normalized(encoded(picture))
    other, _ = normalized(encoded(picture.resize((300, 225)), "JPEG", quality=60))
    assert (one.perceptual_hash ^ other.perceptual_hash).bit_count() <= 6


def test_hash_is_where_it_gets_brighter() -> None:
    assert perceptual_hash(gradient(90, 80)) == 2**64 - 1
    assert perceptual_hash(gradient(90, 80).transpose(Image.Transpose.FLIP_LEFT_RIGHT)) == 0


BAD = {
    "empty": (b"", "invalid", "is empty"),
    "text": (b"not a picture at all", "invalid", "is none of JPEG"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "invalid", "is none of JPEG"),
    "png cut off": (encoded(gradient())[:-40], "invalid", "broken or cut off"),
    "png cut in its header": (encoded(gradient())[:20], "invalid", "IHDR"),
    "jpeg cut off": (encoded(gradient(), "JPEG")[:700], "invalid", "broken or cut off"),
    "webp cut off": (encoded(gradient(), "WEBP")[:60], "invalid", ""),
    "gif cut off": (encoded(gradient(), "GIF")[:820], "invalid", ""),
    "large": (png_header(3_000, 3_000), "too_large", "is 3000 x 3000; at most 4194304 pixels"),
    "bomb": (png_header(30_000, 30_000), "too_large", "more than 4194304 pixels"),
    "larger bomb": (png_header(2**31 - 1, 2**31 - 1), "too_large", "more than 4194304 pixels"),
    "gif with a frame that is a bomb": (gif_frame(60_000, 60_000), "too_large", "more than 4194304 pixels"),
    "tiff of another kind": (
        tiff((8, 8), bytes(256), (16, 16), 1, extra=(2,)),
        "invalid",
        "TIFF: unknown pixel mode",
    ),
    "no pixels": (png_header(0, 10), "invalid", ""),
    "a line": (png_header(1, 5000), "invalid", "200 times"),
    "floats": (encoded(Image.new("F", (64, 64), 0.5), "TIFF"), "invalid", "32-bit"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_picture_is_refused_with_its_reason(name: str) -> None:
    image, fault, words = BAD[name]
    with pytest.raises(BadPictureError) as refused:
        normalize(image, JOB)
    assert refused.value.fault == fault
    assert words in str(refused.value)
