"""The loop: a skill drafts an answer, reflects on it and corrects it, and the best of its answers is returned."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.errors import LoopError
from core.loop.config import MAX_ITERATIONS, LoopConfig
from core.loop.events import (
    IterationFinished,
    LoopEvent,
    LoopFinished,
    LoopStarted,
    Piece,
    ReflectionFinished,
    StageStarted,
)
from core.loop.result import CallFigures, Iteration, LoopResult, Reflection, Stage, StopReason
from core.loop.run import LoopRun
from core.model_pool import get_model_pool
from core.pool.structured import shape_of

if TYPE_CHECKING:
    from collections.abc import Generator

    from core.model_pool import ModelPool

__all__ = [
    "MAX_ITERATIONS",
    "CallFigures",
    "Iteration",
    "IterationFinished",
    "LoopConfig",
    "LoopError",
    "LoopEvent",
    "LoopFinished",
    "LoopResult",
    "LoopStarted",
    "OmniLoop",
    "Piece",
    "Reflection",
    "ReflectionFinished",
    "Stage",
    "StageStarted",
    "StopReason",
]


class OmniLoop:
    """Drafts, reflects and corrects. Keeps no state between runs; thread-safe.

        result = OmniLoop(LoopConfig(max_tokens=200)).run("Explain how a rainbow forms")
        print(result.answer)

    Args:
        config: The settings.
        pool: Pool that provides the client of the skill; by default the pool of the process.
        skill: Name of the skill that answers.

    Raises:
        ConfigError: The `json_schema` of the config is not a schema.
    """

    def __init__(
        self, config: LoopConfig | None = None, *, pool: ModelPool | None = None, skill: str = "draft"
    ) -> None:
        self.config = LoopConfig() if config is None else config
        self.skill = skill
        self._pool = pool
        schema = self.config.json_schema
        self._shape = None if schema is None else shape_of(schema)

    def run(self, prompt: str) -> LoopResult:
        """Run the loop to its end, and return the result.

        Raises:
            ValueError: The prompt is empty.
            LoopError: The draft failed, or no answer is what `json_schema` asks for.
            UnknownSkillError: There is no such skill.
            SkillStartError: Its local process did not start.
        """
        for event in self.stream(prompt):
            if isinstance(event, LoopFinished):
                return event.result
        raise AssertionError("a loop that ends without an error ends with LoopFinished")

    def stream(self, prompt: str) -> Generator[LoopEvent, None, None]:
        """Run the loop and yield its events, `LoopFinished` last. Closing the iterator cancels the current call.

        Raises:
            ValueError: The prompt is empty. Raised at once; other errors of `run` are raised while iterating.
        """
        if not prompt.strip():
            raise ValueError("prompt is empty")
        return self._events(prompt)

    def _events(self, prompt: str) -> Generator[LoopEvent, None, None]:
        pool = get_model_pool() if self._pool is None else self._pool
        client = pool.get_skill_client(self.skill)
        yield from LoopRun(self.config, client, pool.plugins, prompt, self._shape).events()
