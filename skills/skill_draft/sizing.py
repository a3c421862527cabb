"""How the next engine is sized: as the last one was, or smaller if the kernel killed that as memory ran out."""

from __future__ import annotations

import dataclasses

from .engine.messages import EngineConfig, Sizes

MAX_STEPS = 4
"""An engine that was made smaller this often gets no smaller."""


class Sizing:
    """What a server has learned about the memory that its engines have."""

    def __init__(self) -> None:
        self.kills = 0
        """Engines that were killed as memory ran out, since the start."""
        self._steps = 0  # how often the engine was made smaller under this limit
        self._sizes: Sizes | None = None
        self._limit: float | None = None

    def of_next(self, config: EngineConfig, limit: float) -> EngineConfig:
        """Return the configuration of the next engine. A limit that has changed makes it choose its sizes anew.

        Args:
            config: what the server was told.
            limit: the memory limit as it is now, bytes.
        """
        if limit != self._limit:
            self._limit, self._sizes, self._steps = limit, None, 0
        return dataclasses.replace(config, sizes=self._sizes, memory_kills=self._steps)

    def measured(self, sizes: Sizes) -> None:
        """Note the sizes of an engine that is ready: one that replaces it need not measure again."""
        self._sizes = sizes

    def shrink(self) -> bool:
        """Note that memory ran out. Return whether the next engine is smaller for that."""
        self.kills += 1
        if self._steps == MAX_STEPS:
            return False
        self._sizes, self._steps = None, self._steps + 1
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
