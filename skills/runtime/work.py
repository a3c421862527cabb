"""The bound on a server's work: some calls run, some wait, and the rest are refused at once."""

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

# The weight of the newest call in the mean duration, from which the retry delay is computed.
_NEWEST = 0.2


class Slot:
    """One call's permission to work."""

    running: asyncio.Future[Any] | None = None
    """The result of its thread, also if nothing waits for it any more."""

    async def run(self, function: Callable[[Unpack[_Arguments]], _T], *arguments: *_Arguments) -> _T:
        """Call a function in a thread, which keeps the event loop free.

        If the call ends first, for example at its deadline, the function goes on alone: a thread cannot be ended from
        outside. But it does not keep the server from ending.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[_T] = loop.create_future()

        def work() -> None:
            try:
                tell = functools.partial(future.set_result, function(*arguments))
            except StopIteration:
                tell = functools.partial(future.set_exception, RuntimeError("the function raised StopIteration"))
            except BaseException as error:  # noqa: BLE001  # it belongs to the caller that waits
                tell = functools.partial(future.set_exception, error)
            with contextlib.suppress(RuntimeError):  # the server may have ended meanwhile
                loop.call_soon_threadsafe(tell)

        self.running = future
        # A thread for each call costs 0.1 ms, and it is a daemon, which a pool's threads are not.
        threading.Thread(target=work, name="work", daemon=True).start()
        return await asyncio.shield(future)


class Work:
    """Grants slots in the order in which they are requested.

    Args:
        workers: the number of slots, at least 1.
        queue: how many calls may wait for one.
    """

    def __init__(self, *, workers: int, queue: int) -> None:
        self.workers = workers
        self._queue = queue
        self._slots = asyncio.Semaphore(workers)
        self._surplus = 0  # slots to remove as soon as they are free
        self._mean_s = 0.0
        self.active = 0
        self.waiting = 0

    def set_workers(self, workers: int) -> None:
        """Change the number of slots: more of them at once, fewer as calls end."""
        self._surplus += self.workers - workers
        self.workers = workers
        while self._surplus < 0:
            self._surplus += 1
            self._slots.release()

    @contextlib.asynccontextmanager
    async def slot(self) -> AsyncIterator[Slot]:
        """Wait for a slot. A call that is cancelled meanwhile leaves the queue.

        Raises:
            RefusedError: The queue is full. `retry_after_s` is when a place in it is likely to be free.
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
            else:  # the slot stays taken while the thread works
                slot.running.add_done_callback(self._abandoned)

    def _free(self) -> None:
        self.active -= 1
        if self._surplus:
            self._surplus -= 1
        else:
            self._slots.release()

    def _abandoned(self, future: asyncio.Future[Any]) -> None:
        if not future.cancelled():
            future.exception()  # retrieved, so that asyncio does not report it as lost
        self._free()
