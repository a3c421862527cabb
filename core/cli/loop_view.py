"""How a loop is shown: its stages on standard error, the answer on standard output."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from core.cli.answer_view import seconds, where
from core.cli.views import table
from core.loop.events import (
    CallProgress,
    IterationFinished,
    LoopEvent,
    LoopFinished,
    Piece,
    ReflectionFinished,
    StageStarted,
)
from core.loop.result import CallFigures, LoopResult, Stage, StopReason

if TYPE_CHECKING:
    from core.cli.answer_view import PromptBar
    from core.cli.common import Settings
    from core.cli.streams import Paint

STOPPED = {
    StopReason.NOTHING_TO_CORRECT: "the model found nothing to correct",
    StopReason.UNCHANGED: "the correction changed nothing",
    StopReason.CONFIDENT: "the model was sure of its answer",
    StopReason.TIME_BUDGET: "the time was over",
    StopReason.CONTEXT_FULL: "the model's context was full",
    StopReason.MAX_ITERATIONS: "that was the last iteration allowed",
    StopReason.FAILED: "an iteration failed",
}


def event_dict(event: LoopEvent) -> dict[str, Any]:
    """Return an event for JSON: its fields, and its name in snake case as `event`."""
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(event).__name__).lower()
    if isinstance(event, LoopFinished):
        return {"event": name, "result": event.result.as_dict()}
    return {"event": name, **dataclasses.asdict(event)}


class LoopView:
    """Shows the events of one loop.

    Args:
        out: Standard output, for the answer alone.
        err: Standard error, for all else.
        settings: Output settings.
        progress: `auto`, `plain` or `quiet`.
        bar: Shows the progress of a call.
    """

    def __init__(self, *, out: Paint, err: Paint, settings: Settings, progress: str, bar: PromptBar) -> None:
        self._out, self._err, self._settings = out, err, settings
        loud = progress == "plain" or (progress == "auto" and err.terminal)
        self._shows_stages = loud and not settings.quiet
        self._bar = bar
        self._line_is_open = False

    def show(self, event: LoopEvent) -> None:
        """Show an event, if at all."""
        if isinstance(event, CallProgress):
            self._bar.show(event)
            return
        self._bar.clear()
        if isinstance(event, LoopFinished):
            if not self._settings.json:
                self._answer(event.result)
            if self._shows_stages or self._settings.stats:
                self._summary(event.result)
        elif self._shows_stages:
            self._stage(event)

    def _stage(self, event: LoopEvent) -> None:
        match event:
            case StageStarted(stage=stage, iteration=iteration):
                self._heading(f"{stage.value} · iteration {iteration}")
            case Piece(stage=Stage.REFLECTION, text=text):
                self._piece(text, dim=True)
            case Piece(text=text):
                self._piece(text)
            case ReflectionFinished() | IterationFinished():
                self._end_line()
                self._err.line()

    def _heading(self, text: str) -> None:
        self._end_line()
        self._err.line(f"── {text} " + "─" * max(0, 56 - len(text)), bold=True, fg="cyan")

    def _piece(self, text: str, **style: bool) -> None:
        self._err.write(text, **style)
        self._line_is_open = not text.endswith("\n")

    def _end_line(self) -> None:
        if self._line_is_open:
            self._err.line()
        self._line_is_open = False

    def _answer(self, result: LoopResult) -> None:
        best = result.iterations[result.best - 1]
        if self._shows_stages:
            if self._out.terminal and self._err.terminal and _stands_above(result):
                self._heading(f"answer · the {best.stage.value} above, iteration {best.number}")
                return
            self._heading(f"answer · the {best.stage.value} of iteration {best.number}")
        self._out.write(result.answer if result.answer.endswith("\n") else result.answer + "\n")

    def _summary(self, result: LoopResult) -> None:
        if self._shows_stages:
            self._err.line()
            self._heading("summary")
        for line in summary(result):
            self._err.line(line, dim=True)


def _stands_above(result: LoopResult) -> bool:
    """Return whether the answer need not be repeated, as nothing but an approval follows it on the screen."""
    closing = result.closing_reflection
    return result.best == len(result.iterations) and (closing is None or closing.nothing_to_correct)


_HEAD = ("", "stage", "tokens", "tok/s", "latency", "first token", "prompt cached", "lookup right", "confidence", "")


def summary(result: LoopResult) -> Iterator[str]:
    """Yield the figures of a loop, line by line."""
    rows: list[tuple[str, ...]] = [_HEAD]
    for iteration in result.iterations:
        if iteration.reflection is not None:
            rows.append(_row("", Stage.REFLECTION, iteration.reflection.figures))
        mark = "<- the answer" if iteration.number == result.best else ""
        score = "" if iteration.score == iteration.confidence else f" (score {iteration.score:.2f})"
        row = _row(str(iteration.number), iteration.stage, iteration.figures)
        rows.append((*row[:-2], f"{iteration.confidence:.2f}{score}", mark))
    if result.closing_reflection is not None:
        rows.append(_row("", Stage.REFLECTION, result.closing_reflection.figures))
    yield from (f"  {line}" for line in table(rows, left=2))
    yield f"  stopped: {STOPPED[result.stopped]}" + (f": {result.failure}" if result.failure else "")
    each = " + ".join(seconds(iteration.latency_ms) for iteration in result.iterations)
    yield (
        f"  {_count(len(result.iterations), 'iteration')} ({each}), {result.tokens} tokens "
        f"in {seconds(result.latency_ms)} in all, {result.cached_tokens} of {result.prompt_tokens} prompt tokens cached"
    )
    seed = "" if result.seed is None else f", seed {result.seed}"
    yield f"  by {result.model or result.skill} {where(result.origin, result.target)}{seed}"


def _row(number: str, stage: Stage, figures: CallFigures) -> tuple[str, ...]:
    return (
        number,
        stage.value + (f", ended by {figures.finish_reason}" if figures.cut_off else ""),
        str(figures.tokens),
        f"{figures.tokens_per_second:.1f}",
        seconds(figures.latency_ms),
        seconds(figures.time_to_first_token_ms),
        f"{figures.cached_tokens} of {figures.prompt_tokens}",
        f"{figures.lookup_accepted} of {figures.lookup_tokens}" if figures.lookup_tokens else "",
        "",
        "",
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
