"""The loop: a skill drafts an answer, reflects on it and corrects it, and the best of its answers is the answer."""

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
    """Drafts, reflects and corrects. Holds no state between runs; thread-safe.

        result = OmniLoop(LoopConfig(max_tokens=200)).run("Explain how a rainbow forms")
        print(result.answer)

    Args:
        config: the settings.
        pool: where the skill's client comes from; by default the pool of the process.
        skill: the name of the skill that answers.

    Raises:
        ConfigError: the config's `json_schema` is none.
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
        """Runs to the end.

        Raises:
            ValueError: the prompt is empty.
            LoopError: there is no answer: the draft failed, or no answer is what `json_schema` asks for.
            UnknownSkillError, SkillStartError: there is nobody to ask.
        """
        for event in self.stream(prompt):
            if isinstance(event, LoopFinished):
                return event.result
        raise AssertionError("a loop that ends without an error ends with LoopFinished")

    def stream(self, prompt: str) -> Generator[LoopEvent, None, None]:
        """The same as it happens; the last event is `LoopFinished`. Closing the iterator cancels the running call.

        Raises:
            ValueError: the prompt is empty. At once; what else `run` raises comes while iterating.
        """
        if not prompt.strip():
            raise ValueError("prompt is empty")
        return self._events(prompt)

    def _events(self, prompt: str) -> Generator[LoopEvent, None, None]:
        pool = get_model_pool() if self._pool is None else self._pool
        client = pool.get_skill_client(self.skill)
        yield from LoopRun(self.config, client, pool.plugins, prompt, self._shape).events()
