"""The loop: a skill drafts an answer, reflects on it and corrects it, and the best of its answers is returned."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.errors import LoopError
from core.images import read_images
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
    from collections.abc import Generator, Iterable, Sequence

    from core.images import ImageSource
    from core.model_pool import ModelPool
    from skills import skills_pb2

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

    def run(self, prompt: str, *, images: Iterable[ImageSource] = ()) -> LoopResult:
        """Run the loop to its end, and return the result.

        Args:
            prompt: What to answer.
            images: What the prompt is about: paths, bytes of image files, or what `core.images.read_image` returns. The
                model sees them in every iteration; they are sent and encoded once.

        Raises:
            ValueError: The prompt is empty.
            ImageFileError: An image cannot be read.
            LoopError: The draft failed, or no answer is what `json_schema` asks for.
            UnknownSkillError: There is no such skill.
            SkillStartError: Its local process did not start.
        """
        for event in self.stream(prompt, images=images):
            if isinstance(event, LoopFinished):
                return event.result
        raise AssertionError("a loop that ends without an error ends with LoopFinished")

    def stream(self, prompt: str, *, images: Iterable[ImageSource] = ()) -> Generator[LoopEvent, None, None]:
        """Run the loop and yield its events, `LoopFinished` last. Closing the iterator cancels the current call.

        Args:
            prompt: see `run`.
            images: see `run`.

        Raises:
            ValueError: The prompt is empty. Raised at once, as the next one; others of `run` come while iterating.
            ImageFileError: An image cannot be read.
        """
        if not prompt.strip():
            raise ValueError("prompt is empty")
        return self._events(prompt, read_images(images))

    def _events(self, prompt: str, images: Sequence[skills_pb2.Image]) -> Generator[LoopEvent, None, None]:
        pool = get_model_pool() if self._pool is None else self._pool
        client = pool.get_skill_client(self.skill)
        yield from LoopRun(self.config, client, pool.plugins, prompt, images=images, shape=self._shape).events()
