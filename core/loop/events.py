"""The events of a loop while it runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from core.loop.result import Iteration, LoopResult, Reflection, Stage


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopStarted:
    """The skill is ready; the first call comes next."""

    skill: str
    language: str
    origin: str
    target: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StageStarted:
    """A call begins: the draft, a reflection or a correction."""

    iteration: int
    stage: Stage


@dataclass(frozen=True, slots=True, kw_only=True)
class CallProgress:
    """The progress of a call before its first piece, if `LoopConfig.progress` is set. See `Progress` of the proto."""

    iteration: int
    stage: Stage
    queue_position: int
    expected_wait_s: float
    prompt_tokens_read: int
    prompt_tokens: int
    images_to_encode: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """The next piece of the text of a stage. The pieces of a stage, joined, are its text."""

    iteration: int
    stage: Stage
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReflectionFinished:
    """A reflection is complete. A correction follows unless there is nothing to correct, or no time."""

    iteration: int
    """Number of the iteration whose correction it is for."""
    reflection: Reflection


@dataclass(frozen=True, slots=True, kw_only=True)
class IterationFinished:
    """A draft or a correction is complete."""

    iteration: Iteration


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopFinished:
    """The last event."""

    result: LoopResult


LoopEvent = LoopStarted | StageStarted | CallProgress | Piece | ReflectionFinished | IterationFinished | LoopFinished
