"""Detect changes of a server's resource limits at run time, as by `docker update`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from .resources import memory_limit, usable_cpus

log = logging.getLogger("sarai.runtime")

LOOK_EVERY_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The resources that this process may use."""

    cpus: int
    memory_bytes: float
    """The cgroup's limit; infinity if there is none."""

    @classmethod
    def read(cls) -> Self:
        """Read the current limits; takes about 0.1 ms."""
        return cls(cpus=usable_cpus(), memory_bytes=memory_limit())

    def __str__(self) -> str:
        memory = f"{self.memory_bytes / (1 << 20):,.0f} MB" if self.memory_bytes < 1 << 60 else "unlimited memory"
        return f"{self.cpus} CPUs and {memory}"


async def watch_limits(changed: Callable[[Limits, Limits], None]) -> None:
    """Call `changed(now, before)` within about a second of each change, until cancelled."""
    before = Limits.read()
    while True:
        await asyncio.sleep(LOOK_EVERY_S)
        now = Limits.read()
        if now != before:
            log.info("the limits have changed: %s, before %s", now, before)
            changed(now, before)
            before = now
