"""Colours: from whatever a file holds to 8 bits of sRGB without transparency."""

from __future__ import annotations

import io

from PIL import Image, ImageCms

from .errors import BadPictureError

# What is kept until the colours are converted, as it can be scaled and turned; all else becomes one of them.
_DIRECT = ("L", "LA", "RGB", "RGBA", "CMYK")
_ALPHA = ("LA", "RGBA")
# The colour space of a profile, and the mode whose pixels it is about.
_MODE_OF_SPACE = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}


def direct(picture: Image.Image) -> Image.Image:
    """The same picture in one of five modes with 8 bits a channel: no palette, no 16 bits.

    Raises:
        BadPictureError: its pixels have 32 bits or more, of which nobody can say what is white.
    """
    if picture.mode in _DIRECT and "transparency" not in picture.info:
        return picture
    if picture.mode.startswith("I;16"):
        return _upper_bits(picture, picture.info.get("transparency"))
    if picture.mode in ("I", "F"):
        raise BadPictureError("has one channel of signed or 32-bit values, and nothing says which of them is white")
    if picture.mode == "La":
        return picture.convert("LA")
    if "transparency" in picture.info or picture.mode in ("PA", "RGBa"):
        return picture.convert("RGBA")
    return picture.convert("L" if picture.mode == "1" else "RGB")


def _upper_bits(picture: Image.Image, clear: int | None) -> Image.Image:
    """Grey of 16 bits in 8, with alpha where one value is clear: all 16 bits decide that."""
    wide = picture.convert("I")  # which takes tables; Pillow's own way to 8 bits would clip
    grey = wide.point([value >> 8 for value in range(1 << 16)], "L")
    if clear is None:
        return grey
    alpha = wide.point([0 if value == clear else 255 for value in range(1 << 16)], "L")
    del wide
    return Image.merge("LA", (grey, alpha))


def to_srgb(picture: Image.Image, profile: bytes | None) -> Image.Image:
    """RGB as screens and models take it: by the file's ICC profile where it has one, with white behind what is clear.

    Args:
        picture: in a mode that `direct` gives.
        profile: the ICC profile of the file. One that is broken, or is for other pixels, counts for nothing.
    """
    if picture.mode in _ALPHA:
        ground = Image.new(picture.mode[:-1], picture.size, "white")
        ground.paste(picture, mask=picture)
        picture = ground
    return (_by_profile(picture, profile) if profile else None) or picture.convert("RGB")


def _by_profile(picture: Image.Image, profile: bytes) -> Image.Image | None:
    try:
        source = ImageCms.getOpenProfile(io.BytesIO(profile))
        mode = _MODE_OF_SPACE.get(source.profile.xcolor_space.strip())
        if mode == "RGB" and picture.mode == "L":
            picture = picture.convert("RGB")
        if picture.mode != mode:
            return None
        return ImageCms.profileToProfile(picture, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None
