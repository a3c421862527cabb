"""The server's end of the vision process: started for the first image, ended when idle, replaced when it dies.

What was asked of a process that dies is asked of the next one. An image during which two processes died is given up.
To know which one that was, a second attempt has the process to itself.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import re
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Any

from skills.runtime.child import JSON
from skills.runtime.child_process import ChildGoneError, ChildProcess, Exit
from skills.runtime.child_start import start
from skills.runtime.patience import patience
from skills.runtime.resources import memory_kills

from .engine.messages import Image

log = logging.getLogger("sarai.draft")

VISION_MODULE = "skills.skill_draft.vision"
_MOST_DEATHS = 2  # of processes that had the same image
_Frame = tuple[dict[str, Any], bytes]


class BadImageError(Exception):
    """An image cannot be read or encoded; the message continues after the name of its field."""


class VisionError(Exception):
    """Images cannot be read or encoded at the moment, whatever they are; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionConfig:
    """What a vision process is started with: its first frame."""

    model: str
    mmproj: str
    mmproj_sha256: str
    row_width: int
    rows_path: str
    threads: int


class VisionProcess(ChildProcess[_Frame, _Frame]):
    """One vision process. Its frames are plain data, since a malicious image may have taken it over."""

    codec = JSON

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.asked: dict[int, asyncio.Future[dict[str, Any]]] = {}
        """The questions without an answer."""
        self.kills = memory_kills()

    async def read_answers(self) -> Exit:
        """Pass answers on until the process ends. Questions without an answer fail with `ChildGoneError` then."""
        try:
            ended = await self._until_gone()
        except (ValueError, KeyError, AttributeError, TypeError):  # a malicious image may have taken it over
            ended = await self.end("what it sent is no answer")
        for future in self.asked.values():
            if not future.done():
                future.set_exception(ChildGoneError(f"the vision process ended ({ended})", ended))
        self.asked.clear()
        return ended

    async def _until_gone(self) -> Exit:
        while True:
            try:
                answer, _ = await self.receive()
            except ChildGoneError:
                return await self.ended()
            if (future := self.asked.pop(answer.pop("id"), None)) and not future.done():
                future.set_result(answer)


class Vision:
    """Reads and encodes images in one process, across its restarts.

    Args:
        config: Returns what a process is started with.
        read_timeout_s: The most time for reading an image.
        encode_timeout_s: The most time for encoding one.
        idle_s: How long a process without work stays.
        module: The module that a process runs.
    """

    def __init__(
        self,
        config: Callable[[], Awaitable[VisionConfig]],
        *,
        read_timeout_s: float,
        encode_timeout_s: float,
        idle_s: float,
        module: str = VISION_MODULE,
    ) -> None:
        self._config = config
        self._read_timeout_s, self._encode_timeout_s, self._idle_s = read_timeout_s, encode_timeout_s, idle_s
        self._module = module
        self._ids = itertools.count(1)
        self._process: VisionProcess | None = None
        self._starting = asyncio.Lock()
        self._listening: set[asyncio.Task[None]] = set()
        self._idle: asyncio.TimerHandle | None = None
        self._turns, self._reading = _Turns(), asyncio.Lock()

    @property
    def pids(self) -> tuple[int, ...]:
        """The id of the process, if there is one."""
        return (self._process.pid,) if self._process else ()

    async def read(self, data: bytes, max_tokens: int) -> Image:
        """Return what an image is read as.

        Raises:
            BadImageError: It is no image, or cannot be read.
            VisionError: No process can read it.
        """
        async with self._reading:  # one at a time: none waits for another one as long as its own time limit
            answer = await self._ask({"max_tokens": max_tokens}, data, self._read_timeout_s, "reading")
        return _image(answer, max_tokens)

    async def encode(self, data: bytes, max_tokens: int, offset: int) -> float:
        """Write the rows of an image into the rows memory. If this is cancelled, the process is killed.

        Args:
            data: The bytes of its file.
            max_tokens: As it was read.
            offset: Where the rows go, in bytes.

        Returns:
            How long it took, seconds.

        Raises:
            BadImageError: It cannot be encoded.
            VisionError: No process can encode it.
        """
        question = {"max_tokens": max_tokens, "offset": offset}
        answer = await self._ask(question, data, self._encode_timeout_s, "encoding")
        if why := answer.get("broken"):
            raise VisionError(why)
        seconds = answer.get("seconds")
        if not isinstance(seconds, float) or not 0 <= seconds < math.inf:
            raise VisionError("the vision process gave no valid answer")
        return seconds

    async def close(self) -> None:
        """End the process."""
        if self._process:
            await self._process.end("the server ends")
        if self._idle:
            self._idle.cancel()
        await asyncio.gather(*self._listening)

    async def _ask(self, question: dict[str, Any], data: bytes, timeout_s: float, what: str) -> dict[str, Any]:
        deaths = 0
        while True:
            async with self._turns.take(alone=deaths > 0):
                process = await self._running()
                try:
                    return await self._ask_once(process, question, data, timeout_s, what)
                except ChildGoneError as error:
                    if error.ended is None or not error.ended.killed_because:  # else it was another image's fault
                        deaths += 1
                    if deaths == _MOST_DEATHS:
                        raise _given_up(process, error.ended, what) from error

    async def _ask_once(
        self, process: VisionProcess, question: dict[str, Any], data: bytes, timeout_s: float, what: str
    ) -> dict[str, Any]:
        id_ = next(self._ids)
        process.asked[id_] = answering = asyncio.get_running_loop().create_future()
        process.send(({"id": id_, **question}, data))
        try:
            async with patience(timeout_s):
                answer: dict[str, Any] = await answering
        except TimeoutError:
            process.kill(f"{what} an image took more than {timeout_s:g} s")
            raise BadImageError(f"was given up after {timeout_s:g} s of {what}") from None
        except asyncio.CancelledError:
            if "offset" in question:
                process.kill("the image that it encodes is no longer wanted")
            raise
        finally:
            process.asked.pop(id_, None)
            self._rest()
        if "fault" in answer:
            raise BadImageError(str(answer.get("message", "cannot be read")))
        return answer

    async def _running(self) -> VisionProcess:
        async with self._starting:
            if self._process is None:
                config = await self._config()
                try:
                    process = await VisionProcess.connect(start(self._module, SARAI_KERNELS="all"))
                except OSError as error:
                    raise VisionError(f"the vision process cannot be started: {error}") from error
                process.send((asdict(config), b""))
                self._process = process
                listening = asyncio.create_task(self._listen(process))
                self._listening.add(listening)
                listening.add_done_callback(self._listening.discard)
            return self._process

    async def _listen(self, process: VisionProcess) -> None:
        ended = await process.read_answers()
        self._process = None
        log.info("the vision process has ended (%s)", ended)

    def _rest(self) -> None:
        """End the process after a while without work."""
        if self._idle:
            self._idle.cancel()
        self._idle = asyncio.get_running_loop().call_later(self._idle_s, self._end_if_idle)

    def _end_if_idle(self) -> None:
        if self._process and not self._process.asked:
            self._process.kill("it was idle")


def _image(answer: dict[str, Any], max_tokens: int) -> Image:
    """Return what an image is read as. The answer is checked: a malicious image may have taken the process over."""
    key, across, down = answer.get("key"), answer.get("across"), answer.get("down")
    if isinstance(key, str) and isinstance(across, int) and isinstance(down, int) and re.fullmatch("[0-9a-f]{64}", key):
        image = Image(key=bytes.fromhex(key), across=across, down=down)
        if min(across, down) > 0 and image.n_tokens <= max_tokens:
            return image
    raise VisionError("the vision process gave no valid answer")


def _given_up(process: VisionProcess, ended: Exit | None, what: str) -> BadImageError | VisionError:
    if ended and ended.perhaps_out_of_memory and memory_kills() != process.kills:
        return VisionError(f"memory ran out twice while images were read or encoded{ended.limit}")
    return BadImageError(f"ended {_MOST_DEATHS} processes that were {what} it")


class _Turns:
    """First attempts share the process, second ones have it to themselves. Turns are granted in order."""

    def __init__(self) -> None:
        self._shared, self._alone = 0, False
        self._waiting: deque[tuple[bool, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def take(self, *, alone: bool) -> AsyncIterator[None]:
        """Wait for a turn."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((alone, turn))
        self._grant()
        try:
            await turn
            yield
        finally:
            if turn.done() and not turn.cancelled():
                self._shared -= not alone
                self._alone = self._alone and not alone
            elif (alone, turn) in self._waiting:
                self._waiting.remove((alone, turn))
            self._grant()

    def _grant(self) -> None:
        while self._waiting and not self._alone:
            alone, turn = self._waiting[0]
            if alone and self._shared:
                return
            self._waiting.popleft()
            if turn.cancelled():
                continue
            self._shared += not alone
            self._alone = alone
            turn.set_result(None)
