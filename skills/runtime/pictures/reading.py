"""Open a picture file, decode it, and return it upright, in sRGB on white, in the wanted size.

The header is read first, and what it says is checked before anything is decoded.
"""

from __future__ import annotations

import io
import warnings

from PIL import ExifTags, Image, UnidentifiedImageError

from . import deep_png, png
from .colour import direct, to_srgb
from .errors import BadPictureError
from .tiles import MAX_ASPECT

Image.WARN_POSSIBLE_FORMATS = True  # why a picture cannot be opened

# What Pillow reads without the help of other programs. MPO is what many cameras call their JPEG.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
_NAMES = {"MPO": "jpeg"}
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class PictureFile:
    """A picture file whose header has been read and checked.

    Args:
        image: The bytes of the file.
        decode_pixels: A picture of more pixels is not decoded.
        formats: Pillow's names of the formats that are read.

    Raises:
        BadPictureError: It is not a picture, has a broken header, too many pixels, or is a line.
        MemoryError: It takes more memory than there is.
    """

    def __init__(self, image: bytes, *, decode_pixels: int, formats: tuple[str, ...] = FORMATS) -> None:
        self._image = png.lean(image) if image.startswith(png.SIGNATURE) else image
        self._decode_pixels = decode_pixels
        self._source = _open(self._image, decode_pixels, formats)
        self._profile = self._source.info.get("icc_profile")
        self._stated = _orientation(self._source) if self._source.format == "TIFF" else 1
        self._left = 1  # the orientation that remains to be done: a TIFF is rotated while it is decoded
        self.stored_size: tuple[int, int] = self._source.size
        """Width and height as stored, pixels."""

    @property
    def format(self) -> str:
        """The format in lower case: `jpeg`."""
        name = self._source.format or ""
        return _NAMES.get(name, name.lower())

    @property
    def kind(self) -> str:
        """The format, or `progressive jpeg`, which takes more memory to decode."""
        return f"progressive {self.format}" if self._source.info.get("progressive") else self.format

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the upright picture, pixels; known after `decode`."""
        return _turned(self._source.size, self._left)

    @property
    def orientation(self) -> int:
        """The EXIF orientation, 1 to 8; known after `decode`."""
        return max(self._stated, self._left)

    @property
    def animated(self) -> bool:
        """Whether more frames follow; ask after `decode`, as this parses a GIF's next one."""
        try:
            return self._source.format != "MPO" and bool(getattr(self._source, "is_animated", False))
        except Exception:  # noqa: BLE001  # what follows is broken, and the first frame is there all the same
            return False

    def shrink_while_decoding(self, size: tuple[int, int]) -> None:
        """Let a JPEG be decoded at a half, a quarter or an eighth of its size, but at least twice `size`.

        Time and memory shrink with the pixels. Other formats are decoded whole.

        Args:
            size: The wanted width and height, of the picture as it is stored.
        """
        self._source.draft(None, (2 * size[0], 2 * size[1]))

    def decode(self) -> None:
        """Decode the pixels, of the first frame if there are several.

        Raises:
            BadPictureError: They are broken or cut off.
            MemoryError: They take more memory than there is.
        """
        source = self._source
        try:
            if deep_png.has_clear_colour(source, self._image):
                deep_png.load(source, self._image)
            source.load()
        except MemoryError:
            raise
        except Exception as error:  # decoders raise OSError, SyntaxError, struct.error and more
            raise BadPictureError(f"is broken or cut off: {str(error) or type(error).__name__}") from error
        _check_size(*source.size, self._decode_pixels)  # a GIF's frame may be larger than its header indicates
        self._left = _orientation(source)

    def scaled(self, size: tuple[int, int], resampling: Image.Resampling) -> Image.Image:
        """Return the decoded picture upright, in RGB on white, stretched to `size`.

        Raises:
            BadPictureError: Nothing says what its colours mean.
        """
        across, down = self.size
        picture = _shrunk(direct(self._source), min(across // size[0], down // size[1]))
        if self._left != 1:
            picture = picture.transpose(_UPRIGHT[self._left])
        picture = to_srgb(picture, self._profile)
        return picture if picture.size == size else picture.resize(size, resampling)


def _open(image: bytes, decode_pixels: int, formats: tuple[str, ...]) -> Image.Image:
    """Open the picture, which reads only its header."""
    if not image:
        raise BadPictureError("is empty")
    # A GIF's frame may be larger than its header indicates, and is allocated here. Pillow refuses more than twice this
    # limit: late enough for `_check_size` to report the size of most large pictures.
    Image.MAX_IMAGE_PIXELS = 2 * decode_pixels
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            source = Image.open(io.BytesIO(image), formats=formats)
        except UnidentifiedImageError:
            raise BadPictureError(_why_unidentified([str(warning.message) for warning in caught], formats)) from None
        except Image.DecompressionBombError as error:
            message = f"has more than {decode_pixels} pixels, the most that are decoded"
            raise BadPictureError(message, fault="too_large") from error
        except MemoryError:
            raise
        except Exception as error:  # decoders raise anything for a broken header
            raise BadPictureError(f"has a broken header: {str(error) or type(error).__name__}") from error
    _check_size(*source.size, decode_pixels)
    return source


def _why_unidentified(messages: list[str], formats: tuple[str, ...]) -> str:
    """Return the reason of the decoder that knew the format, which Pillow reports as a warning."""
    reasons = [text.replace(" opening failed.", ":") for text in messages if "opening failed" in text]
    if not reasons:
        return f"is none of {', '.join(formats)}"
    return f"has a broken header, or is of a kind that is not read ({'; '.join(reasons)})"


def _check_size(width: int, height: int, decode_pixels: int) -> None:
    if width < 1 or height < 1:
        raise BadPictureError(f"has no pixels: {width} x {height}")
    if width * height > decode_pixels:
        raise BadPictureError(f"is {width} x {height}; at most {decode_pixels} pixels are decoded", fault="too_large")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise BadPictureError(f"is {width} x {height}; a side may be at most {MAX_ASPECT} times the other")


def _orientation(source: Image.Image) -> int:
    try:
        found = source.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # noqa: BLE001  # broken EXIF says nothing, and the picture is there all the same
        return 1
    return found if found in _UPRIGHT else 1


def _turned(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    return size if orientation < 5 else size[::-1]


def _shrunk(picture: Image.Image, factor: int) -> Image.Image:
    """Shrink by a whole factor to at least twice the wanted size: the rest of the work then has few pixels."""
    return picture.reduce(factor // 2) if factor >= 4 else picture
