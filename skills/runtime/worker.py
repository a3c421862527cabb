"""A thread that does one job after another."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

_T = TypeVar("_T")


class Worker:
    """Does jobs in the order in which they are submitted.

    Its thread is a daemon, which those of `ThreadPoolExecutor` are not: a job that hangs does not keep the server from
    ending.
    """

    def __init__(self, name: str) -> None:
        self._jobs: queue.Queue[tuple[Future[Any], Callable[[], Any]] | None] = queue.Queue()
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def submit(self, job: Callable[[], _T]) -> Future[_T]:
        """Return the result that a job will have."""
        future: Future[_T] = Future()
        self._jobs.put((future, job))
        return future

    def end(self) -> None:
        """End the thread after the jobs that it has."""
        self._jobs.put(None)

    def _run(self) -> None:
        while (next_ := self._jobs.get()) is not None:
            future, job = next_
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(job())
            except BaseException as error:  # noqa: BLE001  # it belongs to the one who waits
                future.set_exception(error)
