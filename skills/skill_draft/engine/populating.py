"""Memory that the kernel provides before it is used.

The first write to a page waits until the kernel has found it and filled it with zeros. For a parked prefix of 110 MB
that has taken 1.4 s, in the middle of a step. So a thread has the pages made as soon as a prefix is there that may be
parked, and no more of them than that.
"""

from __future__ import annotations

import _thread
import contextlib
import ctypes
import mmap
import os
import threading

from .tokens import Bytes

_POPULATE_WRITE = 23  # MADV_POPULATE_WRITE, Linux 5.14: makes pages writable and leaves what is in them
_CHUNK = 4 << 20
_NICE = 10


class Populated:
    """The beginning of an array, as far as its pages are there."""

    def __init__(self, memory: Bytes) -> None:
        self._memory = memory
        self._wanted = self._done = 0
        self._works = False
        self._madvise = ctypes.CDLL(None).madvise
        self._madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)

    def want(self, size: int) -> None:
        """Have the pages of the first `size` bytes made."""
        self._wanted = max(self._wanted, min(size, len(self._memory)))
        if not self.ready and not self._works:
            self._works = True
            _thread.start_new_thread(self._work, ())  # `Thread.start` would wait until it runs: 10 ms on a busy machine

    @property
    def ready(self) -> bool:
        """Whether all pages are there that are wanted, or can be had."""
        return self._done >= self._wanted

    def _work(self) -> None:
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)  # of this thread alone
        address = self._memory.ctypes.data
        while self._done < self._wanted:
            while self._done < self._wanted:
                self._populate(address)
            self._works = False  # what is wanted from here on starts another thread, or is seen by this one

    def _populate(self, address: int) -> None:
        start = (address + self._done) // mmap.PAGESIZE * mmap.PAGESIZE
        end = min(self._done + _CHUNK, self._wanted)
        if self._madvise(start, address + end - start, _POPULATE_WRITE):  # which takes no lock of Python's
            end = len(self._memory)  # an older kernel: pages are made when they are written, as ever
        self._done = end
