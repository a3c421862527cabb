"""The child's side of a server's child process: its setup, and the frames that the two exchange.

A child is started by `child_start` and held by `child_process`. Its `main` begins with `link_to_server`, which makes
sure that the child never outlives its server, and dies first when memory runs out. Nothing here needs asyncio or gRPC,
so a child is free of both.
"""

from __future__ import annotations

import contextlib
import json
import pickle
import signal
import socket
import struct
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_LENGTH = struct.Struct("<I")
HEADER_BYTES = _LENGTH.size
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class Codec:
    """Converts values to frames and back."""

    encode: Callable[[Any], bytes]
    """Converts a value to a frame: the length of the body in `HEADER_BYTES`, then the body."""
    decode: Callable[[bytes], Any]
    """Converts the body of a frame to a value."""


def body_length(header: bytes) -> int:
    """Return the length of the body that follows a header, in bytes."""
    return int(_LENGTH.unpack(header)[0])


def _pickle_frame(value: Any) -> bytes:
    body = pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
    return _LENGTH.pack(len(body)) + body


def _json_frame(value: tuple[Mapping[str, Any], bytes]) -> bytes:
    head, data = json.dumps(value[0]).encode(), value[1]
    return b"".join((_LENGTH.pack(HEADER_BYTES + len(head) + len(data)), _LENGTH.pack(len(head)), head, data))


def _json_value(body: bytes) -> tuple[dict[str, Any], bytes]:
    end = HEADER_BYTES + body_length(body[:HEADER_BYTES])
    return json.loads(body[HEADER_BYTES:end]), body[end:]


PICKLE = Codec(_pickle_frame, pickle.loads)  # nobody but the two holds the socket
"""Any values. For a child that runs nothing but our own code."""
JSON = Codec(_json_frame, _json_value)
"""A mapping followed by bytes. For a child that reads untrusted input: its frames are plain data, never code."""


class Link:
    """The child's end of the socket to its server.

    Args:
        connection: The socket.
        codec: The same as the server's.
    """

    def __init__(self, connection: socket.socket, codec: Codec) -> None:
        self._socket, self._codec = connection, codec
        self._reader = connection.makefile("rb")

    def receive(self) -> Any | None:
        """Wait for the next frame and return its value; None once the server has gone."""
        header = self._reader.read(HEADER_BYTES)
        if len(header) < HEADER_BYTES:
            return None
        size = body_length(header)
        body = self._reader.read(size)
        return self._codec.decode(body) if len(body) == size else None

    def send(self, value: Any) -> None:
        """Send a value as one frame.

        Raises:
            OSError: The server has gone.
        """
        self._socket.sendall(self._codec.encode(value))


def link_to_server(codec: Codec, *, oom_score_adj: int = 1000) -> Link:
    """Set up this process as a child, and return its link to the server that started it.

    From then on the kernel kills this process when the server dies, even if it is stopped or hung by then. When memory
    runs out, the kernel kills this process and not the server, which can start another one. Ctrl-C is the server's
    business.

    Args:
        codec: The same as the server's.
        oom_score_adj: What the kernel adds to this process's share of memory, in thousandths, when memory runs out and
            it chooses the process with the highest sum. With 1000, it is the first to go, whatever its size.
    """
    import ctypes  # 5 ms, which the server is spared

    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(oom_score_adj), encoding="ascii")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return Link(socket.socket(fileno=int(sys.argv[1])), codec)
