"""One engine process and the socket to it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from pathlib import Path

from skills.runtime.resources import memory_limit

from .engine.messages import HEADER_BYTES, Command, EngineConfig, Event, decode, encode, frame_length

ROOT = Path(__file__).resolve().parents[2]
ENGINE_MODULE = "skills.skill_draft.engine"


class EngineGoneError(Exception):
    """The engine process ended, or never got ready; the message says why."""


class EngineProcess:
    """One engine process and the socket to it."""

    def __init__(
        self, process: asyncio.subprocess.Process, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.process, self._reader, self._writer = process, reader, writer
        self.last_beat = time.monotonic()

    @classmethod
    async def start(cls, module: str, numerics: str) -> EngineProcess:
        """Starts `python -m module`; it waits for its configuration."""
        ours, theirs = socket.socketpair()
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", module, str(theirs.fileno())),
                pass_fds=(theirs.fileno(),),
                stdin=asyncio.subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": path, "SKILL_DRAFT_NUMERICS": numerics},
            )
        finally:
            theirs.close()
        return cls(process, *await asyncio.open_unix_connection(sock=ours))

    def send(self, frame: EngineConfig | Command) -> None:
        """Sends a frame; a process that is gone is noticed by `receive`."""
        self._writer.write(encode(frame))

    async def receive(self) -> list[Event]:
        """The next frame; raises `EngineGoneError` at the end."""
        try:
            header = await self._reader.readexactly(HEADER_BYTES)
            events: list[Event] = decode(await self._reader.readexactly(frame_length(header)))
        except (asyncio.IncompleteReadError, OSError) as error:
            raise EngineGoneError("the engine process ended") from error
        self.last_beat = time.monotonic()
        return events

    async def end(self) -> int | None:
        """Makes sure that the process is gone; returns its exit code."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self._writer.close()
        return await self.process.wait()


def how_it_ended(code: int | None) -> str:
    """An exit code in words."""
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        return f"{name}, perhaps out of memory{_limit()}" if name == "SIGKILL" else name
    return f"exit code {code}"


def _limit() -> str:
    limit = memory_limit()
    return f": the limit is {limit / (1 << 20):,.0f} MB" if limit < 1 << 60 else ""
