"""Messages with images: from files, bytes or Pillow's images to what the contract takes.

    request = GenReq(messages=[user_turn("What is this?", images=["photo.jpg"])])

Pillow is needed, and imported, only where an image may have to be scaled down before it travels. Nothing is fetched.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from core.errors import ImageFileError
from core.images.kinds import READ, foreign_kind, format_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from PIL.Image import Image as PillowImage

    from skills import skills_pb2

    ImageSource = str | os.PathLike[str] | bytes | PillowImage | skills_pb2.Image
    """A path, the bytes of an image file, an image of Pillow's, or one that `read_image` has returned."""

MAX_BYTES = 16 * 1024 * 1024
"""Most bytes of an image in the contract."""
SMALL_BYTES = 1024 * 1024
"""A file of at most this size travels as it is, unless it has far more pixels than can be read."""
MAX_FILE_BYTES = 256 * 1024 * 1024
"""Largest file that is read here, to be scaled down."""
DEFAULT_TOKENS = 576
"""The contract's default of `Image.max_tokens`."""
PIXELS_PER_TOKEN = 32 * 32
SPARE = 2
"""A scaled image has this many times the pixels that are read of it, as the skill scales it once more, to whole tokens,
which would blur it otherwise."""


def read_image(source: ImageSource, *, max_tokens: int | None = None, name: str = "the image") -> skills_pb2.Image:
    """Return an image for a request.

    A file of more than 1 MiB, or with more than four times the pixels that `max_tokens` can show, is scaled down first,
    upright, and always to the same bytes: losslessly (PNG), but a JPEG to a JPEG of high quality, as a lossless copy
    would be several times larger and no better. Other files travel as they are. Takes up to some tenths of a second.

    Args:
        source: A path, the bytes of an image file, or an image of Pillow's. One that this function has returned is
            returned as it is.
        max_tokens: How many tokens it is read as at most, 8 to 1024: one for 32 x 32 pixels, to which it is scaled
            down. More show finer detail and take longer. None for the skill's default, 576.
        name: What errors call an image that has come as bytes.

    Raises:
        ImageFileError: It cannot be read, is no image of a kind that skills read, or is too large.
        TypeError: The source is none of these.
    """
    from skills import skills_pb2

    if isinstance(source, skills_pb2.Image):
        return source
    room = SPARE * (max_tokens or DEFAULT_TOKENS) * PIXELS_PER_TOKEN
    if isinstance(source, bytes):
        data = _travelling(source, name, room)
    elif isinstance(source, (str, os.PathLike)):
        data = _travelling(_read(source), os.fspath(source), room)
    else:
        from core.images.scaling import BrokenImageError, encoded

        try:
            data = encoded(source, room)
        except BrokenImageError as error:
            raise ImageFileError(f"{name}: {error}") from error
    return skills_pb2.Image(data=data, max_tokens=max_tokens)


def read_images(images: Iterable[ImageSource], *, max_tokens: int | None = None) -> list[skills_pb2.Image]:
    """Return several images for a request: see `read_image`.

    Raises:
        ImageFileError: see `read_image`.
        TypeError: One image is given instead of several, or what is no image.
    """
    if isinstance(images, (str, bytes)) or not hasattr(images, "__iter__"):  # the letters of a path are no paths
        raise TypeError(f"images are several: give [image], not the {type(images).__name__} alone")
    return [read_image(image, max_tokens=max_tokens) for image in images]


def user_turn(text: str, *, images: Iterable[ImageSource] = (), max_tokens: int | None = None) -> skills_pb2.Message:
    """Return a turn of the user: images, then a text about them.

    Args:
        text: The text.
        images: Paths, bytes of image files, images of Pillow's or of `read_image`.
        max_tokens: For each of them: see `read_image`.

    Raises:
        ImageFileError: see `read_image`.
        TypeError: see `read_images`.
    """
    from skills import skills_pb2

    parts = [skills_pb2.Part(image=image) for image in read_images(images, max_tokens=max_tokens)]
    if not parts:
        return skills_pb2.Message(role="user", content=text)
    return skills_pb2.Message(role="user", parts=[*parts, skills_pb2.Part(text=text)])


def _read(path: str | os.PathLike[str]) -> bytes:
    name = os.fspath(path)
    if "://" in name or name.startswith(("data:", "http:/", "https:/", "file:/")):  # a Path has one slash of two
        raise ImageFileError(f"{name[:80]}: this is an address, and nothing is fetched: give a file, or its bytes")
    try:
        with Path(path).expanduser().open("rb") as file:
            return file.read(MAX_FILE_BYTES + 1)  # a device may never end
    except FileNotFoundError as error:
        raise ImageFileError(f"{name}: there is no such file") from error
    except IsADirectoryError as error:
        raise ImageFileError(f"{name}: this is a folder; give its files one by one") from error
    except OSError as error:
        raise ImageFileError(f"{name}: cannot be read: {error.strerror}") from error


def _travelling(data: bytes, name: str, room: int) -> bytes:
    """Return the bytes that travel for a file."""
    if not data:
        raise ImageFileError(f"{name}: the file is empty")
    if len(data) > MAX_FILE_BYTES:
        raise ImageFileError(f"{name}: has more than {MAX_FILE_BYTES >> 20} MiB")
    if (format_ := format_of(data)) is None:
        raise ImageFileError(f"{name}: this is {foreign_kind(data)}; images that are read are {READ}")
    try:
        from core.images.scaling import BrokenImageError, scaled
    except ImportError as error:
        if len(data) <= SMALL_BYTES:
            return data
        raise ImageFileError(
            f"{name}: has {len(data) / (1 << 20):.1f} MiB, and to scale it down before it travels takes Pillow: "
            "pip install 'sarai-skills[images]'"
        ) from error
    try:
        data = scaled(data, format_, room, small_bytes=SMALL_BYTES)
    except BrokenImageError as error:
        raise ImageFileError(f"{name}: this {format_} image {error}") from error
    if len(data) > MAX_BYTES:
        raise ImageFileError(f"{name}: has {len(data) / (1 << 20):.1f} MiB; at most {MAX_BYTES >> 20} can travel")
    return data
