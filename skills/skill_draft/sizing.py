"""Size the next engine: like the last one, or smaller if the kernel killed that one because memory ran out."""

from __future__ import annotations

import dataclasses

from .engine.messages import EngineConfig, Sizes

MAX_STEPS = 4
"""How many times the engine is made smaller at most."""


class Sizing:
    """What a server has learned about the memory available to its engines."""

    def __init__(self) -> None:
        self.kills = 0
        """Engines killed because memory ran out, since the start."""
        self._steps = 0  # how many times the engine was made smaller under this limit
        self._sizes: Sizes | None = None
        self._limit: float | None = None

    def of_next(self, config: EngineConfig, limit: float) -> EngineConfig:
        """Return the configuration of the next engine. After a change of the limit it chooses new sizes.

        Args:
            config: the server's own configuration.
            limit: the current memory limit, bytes.
        """
        if limit != self._limit:
            self._limit, self._sizes, self._steps = limit, None, 0
        return dataclasses.replace(config, sizes=self._sizes, memory_kills=self._steps)

    def measured(self, sizes: Sizes) -> None:
        """Record the sizes of an engine that is ready, so that its replacement need not measure again."""
        self._sizes = sizes

    def shrink(self) -> bool:
        """Record that memory ran out. Return whether the next engine is smaller because of it."""
        self.kills += 1
        if self._steps == MAX_STEPS:
            return False
        self._sizes, self._steps = None, self._steps + 1
        return True

    @property
    def note(self) -> str:
        """A note for the operator; empty if the engine was not made smaller."""
        if not self._steps or self._sizes is None:
            return ""
        times = "once" if self.kills == 1 else f"{self.kills} times"
        return (
            f"memory ran out {times}: the engine has {self._sizes.n_cells:,} cells and a batch of "
            f"{self._sizes.n_batch} now; give the container more memory (mem_limit)"
        )
