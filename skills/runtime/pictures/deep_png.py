"""The one kind of PNG that Pillow cannot decode: 16 bits a channel with a transparent colour.

Pillow keeps the upper eight bits of each sample. Whether a pixel is transparent depends on all sixteen, so the lower
eight are decoded as well.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

from PIL import Image, ImageChops

_16_BITS_RGB = bytes([16, 2])


def has_clear_colour(source: Image.Image, image: bytes) -> bool:
    """Return whether a picture is such a PNG."""
    return source.format == "PNG" and "transparency" in source.info and image[24:26] == _16_BITS_RGB


def load(source: Image.Image, image: bytes) -> None:
    """Decode the pixels, and add an alpha channel by all their bits.

    Args:
        source: opened but not loaded; `has_clear_colour` is true for it.
        image: its file, as `png.lean` makes it.
    """
    clear: tuple[int, ...] = source.info.pop("transparency")
    lower = Image.open(io.BytesIO(image), formats=("PNG",))
    # Read in the wrong byte order, so that the lower byte is taken for the upper one.
    lower.tile = [tile._replace(args="RGB;16L") for tile in lower.tile]
    alpha = _unlike(lower, [value & 0xFF for value in clear])
    lower.close()
    source.putalpha(ImageChops.lighter(alpha, _unlike(source, [value >> 8 for value in clear])))


def _unlike(picture: Image.Image, colour: Sequence[int]) -> Image.Image:
    """Return a mask: 255 where any channel differs from the colour's, else 0."""
    unlike = Image.new("L", picture.size)
    for channel, value in enumerate(colour):
        table = [0 if sample == value else 255 for sample in range(256)]
        unlike = ImageChops.lighter(unlike, picture.getchannel(channel).point(table))
    return unlike
