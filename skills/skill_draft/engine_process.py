"""One engine process and the socket to it."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import time

from skills.runtime.resources import memory_limit

from .engine.messages import HEADER_BYTES, Command, EngineConfig, Event, decode, encode, frame_length
from .engine_start import start


class EngineGoneError(Exception):
    """The engine process ended, or never got ready; the message says why."""


class EngineProcess:
    """One engine process and the socket to it."""

    def __init__(
        self, process: subprocess.Popen[bytes], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.process, self._reader, self._writer = process, reader, writer
        self.last_beat = time.monotonic()

    @classmethod
    async def start(cls, module: str, numerics: str) -> EngineProcess:
        """Starts `python -m module`; it waits for its configuration."""
        process, connection = start(module, numerics)
        return cls(process, *await asyncio.open_unix_connection(sock=connection))

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
        self.process.kill()
        self._writer.close()
        return await asyncio.to_thread(self.process.wait)


def how_it_ended(code: int | None) -> str:
    """An exit code in words."""
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        return f"{name}, perhaps out of memory{_limit()}" if name == "SIGKILL" else name
    return f"exit code {code}"


def _limit() -> str:
    limit = memory_limit()
    return f": the limit is {limit / (1 << 20):,.0f} MB" if limit < 1 << 60 else ""
