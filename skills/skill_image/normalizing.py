"""Convert the bytes of any picture to those of one that a vision model can use directly. Independent of gRPC."""

from __future__ import annotations

import io
import warnings

from PIL import ExifTags, Image, UnidentifiedImageError

from . import deep_png, png
from .colour import direct, to_srgb
from .errors import BadPictureError
from .jobs import Job, Picture
from .phash import perceptual_hash
from .tiles import MAX_ASPECT, tiled_size

Image.WARN_POSSIBLE_FORMATS = True  # why a picture cannot be opened

# What Pillow reads without the help of other programs. MPO is what many cameras call their JPEG.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
_NAMES = {"MPO": "jpeg"}
MOST_WEBP_SIDE = 16_383
"""The format's limit, in pixels."""
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def normalize(image: bytes, job: Job) -> tuple[Picture, bytes]:
    """Return the picture upright, in sRGB on white, in whole tiles, encoded.

    Raises:
        BadPictureError: It is not a picture, is broken, has too many pixels, or a side too long for WebP.
        MemoryError: It takes more memory than there is.
    """
    if image.startswith(png.SIGNATURE):
        image = png.lean(image)
    source = _open(image, job.decode_pixels)
    profile = source.info.get("icc_profile")
    stored_size, stated = source.size, _orientation(source) if source.format == "TIFF" else 1
    _load(source, image, job.decode_pixels)
    orientation = _orientation(source)  # what remains to be done: a TIFF is rotated while it is decoded
    across, down = source.size if orientation < 5 else source.size[::-1]
    size = tiled_size(across, down, min_pixels=job.min_pixels, max_pixels=job.max_pixels)
    _check_encoding(*size, job.encoding)
    picture = _shrunk(direct(source), min(across // size[0], down // size[1]))
    if orientation != 1:
        picture = picture.transpose(_UPRIGHT[orientation])
    picture = to_srgb(picture, profile)
    if picture.size != size:
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    media_type, encoded = _encode(picture, job)
    about = Picture(
        media_type=media_type,
        width=size[0],
        height=size[1],
        perceptual_hash=perceptual_hash(picture),
        source_format=_NAMES.get(source.format or "", (source.format or "").lower()),
        source_width=stored_size[0],
        source_height=stored_size[1],
        orientation=max(stated, orientation),
        animated=_is_animated(source),
    )
    return about, encoded


def _open(image: bytes, decode_pixels: int) -> Image.Image:
    """Open the picture, which reads only its header."""
    if not image:
        raise BadPictureError("is empty")
    # A GIF's frame may be larger than its header indicates, and is allocated here. Pillow refuses more than twice this
    # limit: late enough for `_check_size` to report the size of most large pictures.
    Image.MAX_IMAGE_PIXELS = 2 * decode_pixels
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            source = Image.open(io.BytesIO(image), formats=FORMATS)
        except UnidentifiedImageError:
            raise BadPictureError(_why_unidentified([str(warning.message) for warning in caught])) from None
        except Image.DecompressionBombError as error:
            message = f"has more than {decode_pixels} pixels, the most that are decoded"
            raise BadPictureError(message, fault="too_large") from error
        except MemoryError:
            raise
        except Exception as error:  # decoders raise anything for a broken header
            raise BadPictureError(f"has a broken header: {str(error) or type(error).__name__}") from error
    _check_size(*source.size, decode_pixels)
    return source


def _why_unidentified(messages: list[str]) -> str:
    """Return the reason of the decoder that knew the format, which Pillow reports as a warning."""
    reasons = [text.replace(" opening failed.", ":") for text in messages if "opening failed" in text]
    if not reasons:
        return f"is none of {', '.join(FORMATS)}"
    return f"has a broken header, or is of a kind that is not read ({'; '.join(reasons)})"


def _check_size(width: int, height: int, decode_pixels: int) -> None:
    if width < 1 or height < 1:
        raise BadPictureError(f"has no pixels: {width} x {height}")
    if width * height > decode_pixels:
        raise BadPictureError(f"is {width} x {height}; at most {decode_pixels} pixels are decoded", fault="too_large")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise BadPictureError(f"is {width} x {height}; a side may be at most {MAX_ASPECT} times the other")


def _check_encoding(width: int, height: int, encoding: str) -> None:
    if encoding != "png" and max(width, height) > MOST_WEBP_SIDE:
        raise BadPictureError(
            f"is WebP, whose sides have at most {MOST_WEBP_SIDE} pixels, and the picture would be {width} x {height}: "
            "ask for ENCODING_PNG, or for fewer max_pixels",
            field="encoding",
        )


def _load(source: Image.Image, image: bytes, decode_pixels: int) -> None:
    """Decode the pixels, of the first frame if there are several."""
    try:
        if deep_png.has_clear_colour(source, image):
            deep_png.load(source, image)
        source.load()
    except MemoryError:
        raise
    except Exception as error:  # decoders raise OSError, SyntaxError, struct.error and more
        raise BadPictureError(f"is broken or cut off: {str(error) or type(error).__name__}") from error
    _check_size(*source.size, decode_pixels)  # a GIF's frame may be larger than its header indicates


def _is_animated(source: Image.Image) -> bool:
    """Return whether more frames follow; call after loading the first, as this parses a GIF's next one."""
    try:
        return source.format != "MPO" and bool(getattr(source, "is_animated", False))
    except Exception:  # noqa: BLE001  # what follows is broken, and the first frame is there all the same
        return False


def _orientation(source: Image.Image) -> int:
    try:
        found = source.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # noqa: BLE001  # broken EXIF says nothing, and the picture is there all the same
        return 1
    return found if found in _UPRIGHT else 1


def _shrunk(picture: Image.Image, factor: int) -> Image.Image:
    """Shrink by a whole factor to at least twice the wanted size: the rest of the work then has few pixels."""
    return picture.reduce(factor // 2) if factor >= 4 else picture


def _encode(picture: Image.Image, job: Job) -> tuple[str, bytes]:
    out = io.BytesIO()
    picture.info = {}  # otherwise Pillow would write the original profile
    match job.encoding:
        case "webp-lossless":
            picture.save(out, "WEBP", lossless=True, method=2, exact=True)
        case "webp":
            picture.save(out, "WEBP", quality=job.quality, method=4)
        case _:
            picture.save(out, "PNG")
            return "image/png", out.getvalue()
    return "image/webp", out.getvalue()
