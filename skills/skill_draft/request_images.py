"""The images of a request: validated, and put into its turns once it is known what they are read as."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass

from skills import skills_pb2
from skills.runtime.status import RefusedError

from .engine.messages import Image, Request
from .vision.limits import MAX_TOKENS, MIN_TOKENS

MAX_IMAGES = 16
MAX_IMAGE_BYTES = 16 << 20
DEFAULT_TOKENS = 576
HASH_BYTES = 32
ROLES = ("user", "system")

UNREAD = Image(key=b"", across=0, down=0)
"""Stands in a turn for an image of which nothing is known yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagePart:
    """An image of a request, as it came."""

    field: str
    """Its path in the request."""
    data: bytes
    """The bytes of the file; empty if it is named by its hash."""
    sha256: bytes
    max_tokens: int


def has_images(message: skills_pb2.GenReq) -> bool:
    """Return whether a request has any."""
    return any(part.HasField("image") for turn in message.messages for part in turn.parts)


def image_parts(message: skills_pb2.GenReq) -> list[ImagePart]:
    """Return the images of a request in their order.

    Raises:
        RefusedError: One is invalid, or there are too many.
    """
    found = [
        _image_part(part.image, turn.role, f"messages[{i}].parts[{j}].image")
        for i, turn in enumerate(message.messages)
        for j, part in enumerate(turn.parts)
        if part.HasField("image")
    ]
    if len(found) > MAX_IMAGES:
        raise RefusedError(f"has {len(found)} images; at most {MAX_IMAGES} are allowed", field="messages")
    return found


def _image_part(image: skills_pb2.Image, role: str, path: str) -> ImagePart:
    if role not in ROLES:
        raise RefusedError(f"is in a turn of the {role}; it may be in one of {' and '.join(ROLES)}", field=path)
    source = image.WhichOneof("source")
    if source is None or (source == "data" and not image.data):
        raise RefusedError("is empty: send the bytes of an image file", field=f"{path}.data")
    if len(image.data) > MAX_IMAGE_BYTES:
        raise RefusedError(f"has {len(image.data)} bytes; at most {MAX_IMAGE_BYTES} are allowed", field=f"{path}.data")
    if source == "sha256" and len(image.sha256) != HASH_BYTES:
        raise RefusedError(f"has {len(image.sha256)} bytes; a SHA-256 has {HASH_BYTES}", field=f"{path}.sha256")
    tokens = image.max_tokens if image.HasField("max_tokens") else DEFAULT_TOKENS
    if not MIN_TOKENS <= tokens <= MAX_TOKENS:
        raise RefusedError(f"is {tokens}; it must be from {MIN_TOKENS} to {MAX_TOKENS}", field=f"{path}.max_tokens")
    return ImagePart(field=path, data=image.data, sha256=image.sha256, max_tokens=tokens)


def with_images(request: Request, images: Iterable[Image]) -> Request:
    """Return a request in which images stand where `UNREAD` stood, in their order."""
    read = iter(images)
    turns = tuple(
        dataclasses.replace(turn, parts=tuple(next(read) if part is UNREAD else part for part in turn.parts))
        for turn in request.turns
    )
    return dataclasses.replace(request, turns=turns)
