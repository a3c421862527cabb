"""The engine process: `python -m skills.skill_draft.engine FD`, started by the server, never by hand.

FD is this process's end of a socket pair shared with the server. The process ends when the server does.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import signal
import socket
import sys
import threading
import time
import traceback
from pathlib import Path

from .binding import ModelError
from .engine import Engine
from .loading import load
from .messages import (
    HEADER_BYTES,
    Cancel,
    EngineConfig,
    Event,
    Failed,
    FailureKind,
    NotReady,
    Ready,
    Request,
    UseCpus,
    decode,
    encode,
    frame_length,
)  # fmt: skip
from .prepare import Preparer
from .sampling import Scratch

_PR_SET_PDEATHSIG = 1


class Link:
    """The engine's end of the socket."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._reader = connection.makefile("rb")

    def receive(self) -> object | None:
        """The next frame; None when the server has gone."""
        header = self._reader.read(HEADER_BYTES)
        if len(header) < HEADER_BYTES:
            return None
        size = frame_length(header)
        body = self._reader.read(size)
        return decode(body) if len(body) == size else None

    def send(self, events: list[Event]) -> None:
        """Sends one frame with all of a step's events."""
        self._socket.sendall(encode(events))


def die_with_parent() -> None:
    """Has the kernel kill this process when the server dies, even if this one is stopped or hung by then."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def die_first() -> None:
    """Has the kernel take this process, not the server, when memory runs out: the server can start another one."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


def take_in(link: Link, engine: Engine, preparer: Preparer) -> None:
    """Prepare requests while steps run, and hand them to the engine: the body of the intake thread."""
    while True:
        frame = link.receive()
        match frame:
            case None:
                os._exit(0)
            case Cancel() | UseCpus():
                engine.inbox.put(frame)
            case Request():
                engine.intake_busy_since = time.monotonic()
                try:
                    engine.inbox.put(preparer.prepare(frame))
                except Exception as error:  # noqa: BLE001 - one bad request must not affect the others
                    traceback.print_exc()
                    message = f"preparing the request failed: {type(error).__name__}: {error}"
                    engine.inbox.put(Failed(id=frame.id, kind=FailureKind.INTERNAL, message=message))
                engine.intake_busy_since = None


def main() -> int:
    """Load the model, then run until the server goes."""
    die_with_parent()
    die_first()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    link = Link(socket.socket(fileno=int(sys.argv[1])))
    config = link.receive()
    if not isinstance(config, EngineConfig):
        return 0
    try:
        loaded = load(config)
    except ModelError as error:
        link.send([NotReady(message=str(error))])
        return 1
    engine = Engine(loaded, config, send=link.send)
    preparer = Preparer(loaded.model, Scratch(loaded.model.vocab.n_tokens), n_ctx=loaded.sizes.n_ctx)
    ready = Ready(
        model=loaded.model.path.stem, numerics=loaded.numerics, notes=loaded.notes, sizes=loaded.sizes
    )  # fmt: skip
    link.send([ready])
    gc.freeze()  # what exists now is permanent: spares each collection a walk through the vocabulary
    threading.Thread(target=take_in, args=(link, engine, preparer), daemon=True, name="intake").start()
    engine.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
