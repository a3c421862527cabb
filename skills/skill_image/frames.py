"""What server and decoder say to each other: a few values as JSON, and bytes behind them.

Never pickle: the decoder reads strangers' pictures, and what comes from it is read here as data alone.
"""

from __future__ import annotations

import json
import struct
from typing import Any, BinaryIO

LENGTHS = struct.Struct(">II")
"""The lengths of the two parts, bytes."""


def pack(values: dict[str, Any], body: bytes) -> bytes:
    """A frame."""
    head = json.dumps(values).encode()
    return LENGTHS.pack(len(head), len(body)) + head + body


def unpack(head: bytes) -> dict[str, Any]:
    """The values of a frame."""
    values: dict[str, Any] = json.loads(head)
    return values


def read(stream: BinaryIO) -> tuple[dict[str, Any], bytes] | None:
    """The next frame of a pipe; None at its end."""
    lengths = stream.read(LENGTHS.size)
    if len(lengths) < LENGTHS.size:
        return None
    head_length, body_length = LENGTHS.unpack(lengths)
    head, body = stream.read(head_length), stream.read(body_length)
    return (unpack(head), body) if len(body) == body_length else None
