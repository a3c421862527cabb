"""The server's end of the worker processes: one for each picture that is being decoded, kept for the next one."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

from skills.runtime.child import JSON
from skills.runtime.child_process import ChildProcess
from skills.runtime.child_start import start
from skills.runtime.patience import patience
from skills.runtime.pictures.errors import BadPictureError

from .jobs import Job, Picture

_MODULE = "skills.skill_image.worker"


class Worker(ChildProcess[tuple[dict[str, Any], bytes], tuple[dict[str, Any], bytes]]):
    """One worker process. Its frames are plain data, since a malicious picture may have taken it over."""

    codec = JSON


class Workers:
    """Normalises pictures in processes.

    Args:
        timeout_s: The most time for one picture, in seconds.
    """

    def __init__(self, *, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._idle: list[Worker] = []
        self._all: set[Worker] = set()
        self._ending: set[asyncio.Task[object]] = set()

    @property
    def pids(self) -> tuple[int, ...]:
        """The ids of the processes."""
        return tuple(worker.pid for worker in self._all)

    async def warm_up(self) -> None:
        """Start a worker, so that the first picture need not wait for it.

        Raises:
            OSError: It cannot be started.
        """
        self._idle.append(await self._start())

    async def normalize(self, image: bytes, job: Job) -> tuple[Picture, bytes]:
        """Normalise a picture (see `normalizing.normalize`). If this is cancelled, its worker is killed.

        Raises:
            BadPictureError: The picture cannot be normalised.
            ChildGoneError: It ended the worker.
            TimeoutError: It took too long.
        """
        worker = self._idle.pop() if self._idle else await self._start()
        try:
            async with patience(self._timeout_s):
                values, encoded = await worker.ask((dataclasses.asdict(job), image))
        except BaseException:
            self._give_up(worker)
            raise
        self._idle.append(worker)
        if fault := values.get("fault"):
            raise BadPictureError(values["message"], fault=fault, field=values["field"])
        return Picture(**values), encoded

    async def _start(self) -> Worker:
        worker = await Worker.connect(start(_MODULE))
        self._all.add(worker)
        return worker

    def _give_up(self, worker: Worker) -> None:
        self._all.discard(worker)
        ending: asyncio.Task[object] = asyncio.create_task(worker.end("its picture was given up"))
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)

    async def close(self) -> None:
        """End all workers."""
        await asyncio.gather(*self._ending, *(worker.end("the server ends") for worker in self._all))
        self._all.clear()
        self._idle.clear()
