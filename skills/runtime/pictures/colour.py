"""Convert the colours of any file to 8 bits of sRGB without transparency."""

from __future__ import annotations

import io

from PIL import Image, ImageCms

from .errors import BadPictureError

# Modes that stay until the colours are converted, as they can be scaled and turned; the others become one of them.
_DIRECT = ("L", "LA", "RGB", "RGBA", "CMYK")
_ALPHA = ("LA", "RGBA")
# The colour space of a profile, and the mode whose pixels it describes.
_MODE_OF_SPACE = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}


def direct(picture: Image.Image) -> Image.Image:
    """Return the same picture in one of five modes with 8 bits a channel: no palette, no 16 bits.

    Raises:
        BadPictureError: Its pixels have 32 bits or more, and nothing defines white.
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
    """Return 16-bit grey in 8 bits, with an alpha channel if one value is clear, which all 16 bits decide."""
    wide = picture.convert("I")  # which takes tables; Pillow's own way to 8 bits would clip
    grey = wide.point([value >> 8 for value in range(1 << 16)], "L")
    if clear is None:
        return grey
    alpha = wide.point([0 if value == clear else 255 for value in range(1 << 16)], "L")
    del wide
    return Image.merge("LA", (grey, alpha))


def to_srgb(picture: Image.Image, profile: bytes | None) -> Image.Image:
    """Return the picture in sRGB by the file's ICC profile, if it has one, with white behind clear pixels.

    Args:
        picture: in a mode that `direct` returns.
        profile: the ICC profile of the file. A broken one, or one for another kind of pixels, is ignored.
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
