"""An engine without a model, which follows instructions, for tests of what the server does when engines die.

`python -m tests.scripted_engine FD`. The `model` of its configuration is a folder: a file `broken` in it says how
loading fails. The text of a request says what happens: `write` gives a token every few milliseconds, `KILL` ends
the engine at once, `LATER` at the third token, `HANG` stops the intake, `SLOW` does so for a moment. `LARGE3` ends it
as the kernel does when memory runs out, unless it was made smaller three times. A token's id is its place in the
answer.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import time
from pathlib import Path

from skills.runtime.child import HEADER_BYTES, PICKLE, body_length
from skills.skill_draft.engine.messages import (
    Admitted,
    Beat,
    Cancel,
    Done,
    Ending,
    EngineConfig,
    Event,
    FinishReason,
    NotReady,
    Piece,
    Queued,
    Ready,
    Request,
    Sizes,
    Stats,
    Tokens,
)

STEP_S = 0.005
MODULE = "tests.scripted_engine"


class ScriptedEngine:
    """Reads commands and writes events, step by step."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._running: dict[int, tuple[Request, Tokens]] = {}
        self._busy_since: float | None = None
        self._smaller = 0

    def run(self) -> None:
        """Run until the server has gone."""
        config = self._receive()
        assert isinstance(config, EngineConfig)
        broken = Path(config.model, "broken")
        how = broken.read_text() if broken.exists() else ""
        if how == "dies":
            os._exit(3)
        if how == "refuses":
            self._send(NotReady(message="the model is broken"))
            return
        self._smaller = config.memory_kills
        sizes = Sizes(n_ctx=1024, n_cells=2048, n_batch=512, slots=16, n_slots=50, n_outputs=50, block_cells=64)
        self._send(Ready(model="scripted", numerics="exact", notes=(), sizes=config.sizes or sizes))
        while True:
            self._step()
            time.sleep(STEP_S)

    def _step(self) -> None:
        while self._busy_since is None and select.select([self._socket], [], [], 0)[0]:
            match self._receive():
                case Request() as request:
                    self._take_in(request)
                case Cancel() as cancel:
                    self._running.pop(cancel.id, None)
        events = [event for id_ in list(self._running) for event in self._write(id_)]
        self._send(
            *events,
            Beat(stats=Stats(active=len(self._running), intake_busy_since=self._busy_since), sent=time.monotonic()),
        )

    def _take_in(self, request: Request) -> None:
        if request.raw == "KILL":
            os._exit(9)
        if (text := request.raw or "").startswith("LARGE") and self._smaller < int(text.removeprefix("LARGE")):
            os.kill(os.getpid(), signal.SIGKILL)
        if request.raw == "HANG":
            self._busy_since = time.monotonic()
            return
        if request.raw == "SLOW":
            time.sleep(20 * STEP_S)
        self._running[request.id] = request, request.so_far[0] if request.so_far else Tokens()
        self._send(Queued(id=request.id), Admitted(id=request.id, prompt_tokens=1, cached_tokens=0, queue_s=0))

    def _write(self, id_: int) -> list[Event]:
        request, tokens = self._running[id_]
        place = len(tokens.token_ids)
        if request.raw == "LATER" and place == 2:
            os._exit(9)
        new = Tokens(token_ids=(place,), logprobs=(0.0,))
        self._running[id_] = request, tokens + new
        piece = Piece(id=id_, candidate=0, text="x", tokens=new)
        if place + 1 < request.max_tokens:
            return [piece]
        del self._running[id_]
        ending = Ending(text="x" * (place + 1), reason=FinishReason.LENGTH, tokens=tokens + new)
        return [piece, Done(id=id_, endings=(ending,))]

    def _receive(self) -> object:
        return PICKLE.decode(self._read(body_length(self._read(HEADER_BYTES))))

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            got = self._socket.recv(size - len(data))
            if not got:
                os._exit(0)
            data += got
        return data

    def _send(self, *events: Event) -> None:
        self._socket.sendall(PICKLE.encode(list(events)))


if __name__ == "__main__":
    ScriptedEngine(socket.socket(fileno=int(sys.argv[1]))).run()
