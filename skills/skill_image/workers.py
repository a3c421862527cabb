"""The server's side of decoder processes: one for each call that decodes just now, kept for the next."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import sys
from typing import Any

from skills.runtime.patience import patience

from . import frames
from .errors import BadPictureError
from .jobs import Job, Picture

# The decoder's own limit, in case that the server was killed meanwhile: CPU seconds beyond the server's patience.
_MARGIN_S = 2.0


class DecoderDiedError(Exception):
    """The decoder ended while it had a picture; the message says how."""


class Decoders:
    """Normalises pictures in processes.

    Args:
        timeout_s: how long one picture may take, seconds.
    """

    def __init__(self, *, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._idle: list[_Decoder] = []
        self._all: set[_Decoder] = set()

    @property
    def pids(self) -> tuple[int, ...]:
        """The processes that there are."""
        return tuple(decoder.pid for decoder in self._all)

    async def warm_up(self) -> None:
        """Starts one, so that the first picture does not wait for it."""
        self._idle.append(await self._start())

    async def normalize(self, image: bytes, job: Job) -> tuple[Picture, bytes]:
        """See `normalizing.normalize`. If this is cancelled, the decoder is killed: its picture is nobody's any more.

        Raises:
            BadPictureError: the picture cannot be taken.
            DecoderDiedError: it ended the decoder.
            TimeoutError: it took too long.
        """
        decoder = self._idle.pop() if self._idle else await self._start()
        try:
            async with patience(self._timeout_s):
                values, encoded = await decoder.ask(
                    {**dataclasses.asdict(job), "cpu_s": self._timeout_s + _MARGIN_S}, image
                )
        except BaseException:
            self._all.discard(decoder)
            decoder.kill()
            raise
        self._idle.append(decoder)
        if fault := values.get("fault"):
            raise BadPictureError(values["message"], fault=fault, field=values["field"])
        return Picture(**values), encoded

    async def _start(self) -> _Decoder:
        decoder = await _Decoder.start()
        self._all.add(decoder)
        return decoder

    async def close(self) -> None:
        """Ends them all."""
        for decoder in self._all:
            decoder.kill()
        await asyncio.gather(*(decoder.ended() for decoder in self._all))
        self._all.clear()
        self._idle.clear()


class _Decoder:
    """One process and the pipes to it."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process, self._to, self._from = process, process.stdin, process.stdout
        self.pid = process.pid

    @classmethod
    async def start(cls) -> _Decoder:
        path = os.pathsep.join(entry or "." for entry in sys.path)  # it finds what this process finds
        return cls(
            await asyncio.create_subprocess_exec(
                sys.executable, "-m", "skills.skill_image.worker",
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, env={**os.environ, "PYTHONPATH": path},
            )
        )  # fmt: skip

    async def ask(self, values: dict[str, Any], image: bytes) -> tuple[dict[str, Any], bytes]:
        try:
            self._to.write(frames.pack(values, image))
            await self._to.drain()
            head_length, body_length = frames.LENGTHS.unpack(await self._from.readexactly(frames.LENGTHS.size))
            head = await self._from.readexactly(head_length)
            return frames.unpack(head), await self._from.readexactly(body_length)
        except (asyncio.IncompleteReadError, OSError) as error:
            raise DecoderDiedError(f"the decoder ended with {await self._process.wait()}") from error

    def kill(self) -> None:
        if self._process.returncode is None:
            self._process.kill()

    async def ended(self) -> None:
        await self._process.wait()
