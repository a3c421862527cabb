"""The bound of a server's work: so many calls at once, so many that wait, and the rest is turned away at once."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar, TypeVarTuple, Unpack

import grpc

from .status import RefusedError

_T = TypeVar("_T")
_Arguments = TypeVarTuple("_Arguments")

# How much the newest call counts in the mean that a computed wait comes from.
_NEWEST = 0.2


class Slot:
    """One call's leave to work."""

    running: asyncio.Future[Any] | None = None
    """What its thread does, also when nobody waits for it any more."""

    async def run(self, function: Callable[[Unpack[_Arguments]], _T], *arguments: *_Arguments) -> _T:
        """Calls a function in a thread, which keeps the event loop free.

        Where the call ends first, at its deadline for one, the function goes on alone: a thread cannot be ended from
        outside. It does not keep the server from ending, though.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[_T] = loop.create_future()

        def work() -> None:
            try:
                tell = functools.partial(future.set_result, function(*arguments))
            except StopIteration:
                tell = functools.partial(future.set_exception, RuntimeError("the function raised StopIteration"))
            except BaseException as error:  # noqa: BLE001  # it belongs to whoever waits
                tell = functools.partial(future.set_exception, error)
            with contextlib.suppress(RuntimeError):  # the server has ended meanwhile
                loop.call_soon_threadsafe(tell)

        self.running = future
        # A thread a call: 0.1 ms, and a daemon, which a pool's threads are not.
        threading.Thread(target=work, name="work", daemon=True).start()
        return await asyncio.shield(future)


class Work:
    """Gives slots, in the order in which they are asked for.

    Args:
        workers: slots, at least 1.
        queue: calls that wait for one at most.
    """

    def __init__(self, *, workers: int, queue: int) -> None:
        self.workers = workers
        self._queue = queue
        self._slots = asyncio.Semaphore(workers)
        self._surplus = 0  # slots that are taken back as soon as they are free
        self._mean_s = 0.0
        self.active = 0
        self.waiting = 0

    def set_workers(self, workers: int) -> None:
        """Gives more slots at once, or fewer as calls end."""
        self._surplus += self.workers - workers
        self.workers = workers
        while self._surplus < 0:
            self._surplus += 1
            self._slots.release()

    @contextlib.asynccontextmanager
    async def slot(self) -> AsyncIterator[Slot]:
        """Waits for a slot. Who is cancelled while waiting leaves the queue.

        Raises:
            RefusedError: The queue is full; it says when a place in it is likely to be free.
        """
        if self._slots.locked() and self.waiting >= self._queue:
            raise RefusedError(
                "this replica has as many calls as it may hold",
                code=grpc.StatusCode.RESOURCE_EXHAUSTED,
                retry_after_s=max(0.05, self._mean_s * (self.waiting + 1) / self.workers),
            )
        self.waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self.waiting -= 1
        self.active += 1
        slot, begin_s = Slot(), time.monotonic()
        try:
            yield slot
        finally:
            self._mean_s += (time.monotonic() - begin_s - self._mean_s) * (_NEWEST if self._mean_s else 1.0)
            if slot.running is None or slot.running.done():
                self._free()
            else:  # as long as its thread works, its slot is taken
                slot.running.add_done_callback(self._abandoned)

    def _free(self) -> None:
        self.active -= 1
        if self._surplus:
            self._surplus -= 1
        else:
            self._slots.release()

    def _abandoned(self, future: asyncio.Future[Any]) -> None:
        if not future.cancelled():
            future.exception()  # looked at, so that asyncio does not call it lost
        self._free()
