"""How the next engine is sized: as the last one was, or smaller if the kernel killed that as memory ran out."""

from __future__ import annotations

import dataclasses
import logging

from skills.runtime.resources import memory_kills, memory_limit

from .engine.messages import EngineConfig, Sizes
from .engine_process import Exit

log = logging.getLogger("sarai.draft")

MOST_STEPS = 4
"""An engine that was made smaller as often as that gets no smaller."""


class Sizing:
    """What a server has learned about the memory that its engines have."""

    def __init__(self) -> None:
        self.kills = 0
        """Engines that were killed as memory ran out, since the start."""
        self._steps = 0  # how often the engine was made smaller under this limit
        self._sizes: Sizes | None = None
        self._limit = memory_limit()
        self._counted = memory_kills()

    def of_next(self, config: EngineConfig) -> EngineConfig:
        """Return the configuration of the next engine. A limit that has changed makes it choose its sizes anew."""
        if (limit := memory_limit()) != self._limit:
            self._limit, self._sizes, self._steps = limit, None, 0
        self._counted = memory_kills()
        return dataclasses.replace(config, sizes=self._sizes, memory_kills=self._steps)

    def measured(self, sizes: Sizes) -> None:
        """An engine is ready; one that replaces it need not measure again."""
        self._sizes = sizes

    def shrinks_after(self, ended: Exit | None) -> bool:
        """Whether an engine was killed for want of memory, and the next one is smaller for that."""
        if ended is None or not ended.perhaps_out_of_memory or memory_kills() == self._counted:
            return False
        self.kills += 1
        if self._steps == MOST_STEPS:
            return False
        self._sizes, self._steps = None, self._steps + 1
        log.error("memory ran out%s: the next engine is smaller", ended.limit)
        return True

    @property
    def note(self) -> str:
        """What an operator should know; empty if there is nothing."""
        if not self._steps or self._sizes is None:
            return ""
        times = "once" if self.kills == 1 else f"{self.kills} times"
        return (
            f"memory ran out {times}: the engine has {self._sizes.n_cells:,} cells and a batch of "
            f"{self._sizes.n_batch} now; give the container more memory (mem_limit)"
        )
