"""From the bytes of an image file to the pixels that the vision tower gets, and their key."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from PIL import Image

from skills.runtime.pictures.errors import BadPictureError
from skills.runtime.pictures.reading import PictureFile
from skills.runtime.pictures.tiles import TILE

from .grid import grid_of
from .limits import FORMATS, MOST_PIXELS, most_pixels


@dataclass(frozen=True, slots=True, kw_only=True)
class Pixels:
    """An image in RGB, 8 bits a channel, row by row, whose sides are multiples of 32."""

    across: int
    down: int
    """Columns and rows of image tokens, each of 32 x 32 pixels."""
    data: bytes

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.across * TILE, self.down * TILE

    def key(self, tower: bytes) -> bytes:
        """Return the SHA-256 of all that determines the rows of this image.

        Args:
            tower: The SHA-256 of the file of the vision tower.
        """
        width, height = self.size
        return hashlib.sha256(b"RGB %d %d " % (width, height) + tower + self.data).digest()


def read_pixels(image: bytes, max_tokens: int) -> Pixels:
    """Return the pixels of an image file: the first frame, upright, on white, stretched to whole image tokens.

    Raises:
        BadPictureError: It is not an image of a known format, is broken, or too large.
        MemoryError: It takes more memory than there is.
    """
    file = PictureFile(image, decode_pixels=MOST_PIXELS, formats=FORMATS)
    width, height = file.stored_size
    if width * height > (most := most_pixels(file.kind)):
        message = f"is a {file.kind} of {width} x {height}; at most {most} pixels of such a file are decoded"
        raise BadPictureError(message, fault="too_large")
    across, down = grid_of(*file.stored_size, max_tokens)
    file.shrink_while_decoding((across * TILE, down * TILE))
    file.decode()
    across, down = grid_of(*file.size, max_tokens)
    picture = file.scaled((across * TILE, down * TILE), Image.Resampling.BICUBIC)
    return Pixels(across=across, down=down, data=picture.tobytes())
