"""The server's end of a child process: frames both ways, killing it, and how it ended, in words."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
from dataclasses import dataclass
from typing import ClassVar, Generic, Self, TypeVar

from .child import HEADER_BYTES, Codec, body_length
from .child_start import Started
from .resources import memory_limit

_Sent = TypeVar("_Sent")
_Received = TypeVar("_Received")

_EXIT_S = 2.0  # from the end of its socket to its own end, as Python takes a moment to exit


@dataclass(frozen=True, slots=True)
class Exit:
    """How a child process ended; its text is for the log and for users."""

    code: int
    killed_because: str = ""
    """Why the server killed it; empty if it ended otherwise."""

    @property
    def perhaps_out_of_memory(self) -> bool:
        """Whether it was killed, and not by its server: then most likely by the kernel."""
        return self.code == -signal.SIGKILL and not self.killed_because

    @property
    def limit(self) -> str:
        """The memory limit in words, to be appended; empty if there is none."""
        limit = memory_limit()
        return f": the limit is {limit / (1 << 20):,.0f} MB" if limit < 1 << 60 else ""

    def __str__(self) -> str:
        if self.killed_because:
            return f"killed: {self.killed_because}"
        if self.perhaps_out_of_memory:
            return f"SIGKILL, perhaps out of memory{self.limit}"
        return signal.Signals(-self.code).name if self.code < 0 else f"exit code {self.code}"


class ChildGoneError(Exception):
    """The child process ended, or never got ready. The message says why, and `ended` how, if that is known."""

    def __init__(self, message: str, ended: Exit | None = None) -> None:
        super().__init__(message)
        self.ended = ended


class ChildProcess(Generic[_Sent, _Received]):
    """One child process and the socket to it.

    A subclass sets the codec and the types of the values.
    """

    codec: ClassVar[Codec]

    def __init__(
        self, process: subprocess.Popen[bytes], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._process, self._reader, self._writer = process, reader, writer
        self._killed_because = ""
        self.pid = process.pid

    @classmethod
    async def connect(cls, started: Started) -> Self:
        """Take over a process from `child_start.start`."""
        process, connection = started
        try:
            return cls(process, *await asyncio.open_unix_connection(sock=connection))
        except BaseException:  # cancelled, as the server ends: nothing else knows of the process
            process.kill()
            process.wait()
            raise

    def send(self, value: _Sent) -> None:
        """Send a value. If the process is gone, `receive` raises."""
        self._writer.write(self.codec.encode(value))

    async def receive(self) -> _Received:
        """Wait for the next frame and return its value.

        Raises:
            ChildGoneError: The socket was closed.
        """
        try:
            header = await self._reader.readexactly(HEADER_BYTES)
            body = await self._reader.readexactly(body_length(header))
        except (asyncio.IncompleteReadError, OSError) as error:
            raise ChildGoneError("the process ended") from error
        value: _Received = self.codec.decode(body)
        return value

    async def ask(self, value: _Sent) -> _Received:
        """Send a value and return the next one that comes, for a child that answers each frame with one.

        Raises:
            ChildGoneError: The process ended; `ended` says how.
        """
        self.send(value)
        try:
            return await self.receive()
        except ChildGoneError as error:
            ended = await self.ended()
            raise ChildGoneError(f"the process ended ({ended})", ended) from error

    def kill(self, because: str) -> None:
        """Kill the process; `receive` raises then."""
        if self._process.poll() is None:
            self._killed_because = self._killed_because or because
            self._process.kill()

    async def ended(self, within_s: float = _EXIT_S) -> Exit:
        """Wait for the end of a process whose socket has ended, or that was told to end. One that goes on is killed."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            await asyncio.to_thread(self._process.wait, within_s)
        return await self.end("it closed its socket")

    async def end(self, because: str) -> Exit:
        """Kill the process unless it has ended, and return how it ended."""
        self.kill(because)
        self._writer.transport.abort()
        return Exit(await asyncio.to_thread(self._process.wait), self._killed_because)
