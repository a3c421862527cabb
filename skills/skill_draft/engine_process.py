"""One engine process, the socket to it, and how it ended."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
from dataclasses import dataclass

from skills.runtime.resources import memory_limit

from .engine.messages import HEADER_BYTES, Command, EngineConfig, Event, decode, encode, frame_length
from .engine_start import start

_EXIT_S = 2.0  # from the end of its socket to its own end; Python takes a moment to wind up


@dataclass(frozen=True, slots=True)
class Exit:
    """How an engine process ended; as text, for the log and for users."""

    code: int
    killed_because: str = ""
    """Why the server killed it; empty where it ended by itself, or somebody else did."""

    @property
    def perhaps_out_of_memory(self) -> bool:
        """Whether it was killed, and not by us: most likely by the kernel."""
        return self.code == -signal.SIGKILL and not self.killed_because

    @property
    def limit(self) -> str:
        """The memory limit in words, after what it explains; empty if there is none."""
        limit = memory_limit()
        return f": the limit is {limit / (1 << 20):,.0f} MB" if limit < 1 << 60 else ""

    def __str__(self) -> str:
        if self.killed_because:
            return f"killed: {self.killed_because}"
        if self.perhaps_out_of_memory:
            return f"SIGKILL, perhaps out of memory{self.limit}"
        return signal.Signals(-self.code).name if self.code < 0 else f"exit code {self.code}"


class EngineGoneError(Exception):
    """The engine process ended, or never got ready; the message says why, and `ended` how, where that is known."""

    def __init__(self, message: str, ended: Exit | None = None) -> None:
        super().__init__(message)
        self.ended = ended


class EngineProcess:
    """One engine process and the socket to it."""

    def __init__(
        self, process: subprocess.Popen[bytes], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._process, self._reader, self._writer = process, reader, writer
        self._killed_because = ""
        self.pid = process.pid
        self.num_frames = 0
        """Frames received: an engine that works sends more and more."""

    @classmethod
    async def start(cls, module: str, numerics: str) -> EngineProcess:
        """Start `python -m module`; it waits for its configuration."""
        process, connection = start(module, numerics)
        return cls(process, *await asyncio.open_unix_connection(sock=connection))

    def send(self, frame: EngineConfig | Command) -> None:
        """Send a frame; a process that is gone is noticed by `receive`."""
        self._writer.write(encode(frame))

    async def receive(self) -> list[Event]:
        """Return the next frame; raise `EngineGoneError` at the end."""
        try:
            header = await self._reader.readexactly(HEADER_BYTES)
            events: list[Event] = decode(await self._reader.readexactly(frame_length(header)))
        except (asyncio.IncompleteReadError, OSError) as error:
            raise EngineGoneError("the engine process ended") from error
        self.num_frames += 1
        return events

    def kill(self, because: str) -> None:
        """Kill the process; `receive` notices."""
        if self._process.poll() is None:
            self._killed_because = self._killed_because or because
            self._process.kill()

    async def ended(self) -> Exit:
        """Wait for a process whose socket has ended; one that goes on without it is killed."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            await asyncio.to_thread(self._process.wait, _EXIT_S)
        return await self.end("it closed its socket")

    async def end(self, because: str) -> Exit:
        """Make sure that the process is gone."""
        self.kill(because)
        self._writer.close()
        return Exit(await asyncio.to_thread(self._process.wait), self._killed_because)
