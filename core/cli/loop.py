"""`sarai loop`: draft, reflect, correct."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Any

import click

from core.cli.answer_view import PromptBar, why_empty
from core.cli.asking import AnswerOptions, answer_options, read_prompt
from core.cli.common import ExitCode, Settings, common_options, print_json, start_command
from core.cli.images import STDIN, image_options, read_images, refusals_by_name
from core.cli.parameters import Seconds, Whole
from core.cli.pool import open_pool, skill_options
from core.cli.streams import Paint

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from core.loop.events import LoopEvent
    from core.omni_loop import LoopResult

_EPILOG = """\b
Examples:
  sarai loop "Explain how a rainbow forms"
  sarai loop "Explica cómo se forma un arco iris" > respuesta.txt
  sarai loop --time-budget 10 --stats "Why is the sky blue?"
  sarai loop --image chart.png "What does this chart show?"
  sarai loop --json "Why is the sky blue?" | jq -r 'select(.event == "loop_finished").result.answer'
"""


@click.command(epilog=_EPILOG, short_help="Draft an answer, reflect on it, correct it.")
@click.argument("prompt", nargs=-1)
@skill_options
@click.option("--max-iterations", type=Whole(1, 3), envvar="SARAI_MAX_ITERATIONS", show_envvar=True,
              help="The draft is one, each correction is one. Default: 3.")  # fmt: skip
@click.option("--confidence", type=float, envvar="SARAI_CONFIDENCE", show_envvar=True,
              help="Accept an answer unchanged if its tokens are this probable (geometric mean); "
                   "0: never for that reason. Default: 0.9.")  # fmt: skip
@click.option("--language", type=click.Choice(["auto", "en", "es"]), envvar="SARAI_LANGUAGE", show_envvar=True,
              help="Language of the reflection and correction prompts. Default: auto, that of PROMPT.")  # fmt: skip
@click.option("--reflection-max-tokens", type=Whole(1), help="Longest reflection, tokens. Default: 128.")
@click.option("--time-budget", type=Seconds(), envvar="SARAI_TIME_BUDGET_S", show_envvar=True,
              help="For the whole loop: the best answer so far is taken after this time.")  # fmt: skip
@click.option("--timeout", type=Seconds(), envvar="SARAI_LOOP_TIMEOUT_S", show_envvar=True,
              help="For each iteration: give up on it after this time. Default: 120.")  # fmt: skip
@click.option("--progress", type=click.Choice(["auto", "plain", "quiet"]), default="auto", show_default=True,
              envvar="SARAI_PROGRESS", show_envvar=True,
              help="Show drafts and reflections on standard error: on a terminal, always, or never.")  # fmt: skip
@image_options
@answer_options(temperature="0, so that the same prompt gives the same answer")
@common_options
def loop(
    *,
    prompt: tuple[str, ...],
    skill: str,
    target: str | None,
    images: tuple[Path, ...],
    image_tokens: int | None,
    timeout: float | None,
    time_budget: float | None,
    confidence: float | None,
    progress: str,
    **parameters: Any,
) -> int:
    """Draft an answer to PROMPT, reflect on it, correct it, and print the best of the answers.

    It stops when there is nothing to correct, when a correction changes nothing, when the model is sure of its
    answer, when the time budget is over, and after two corrections at the latest.

    Piped input is put before PROMPT; a single - as PROMPT reads standard input in any case.
    With --image, PROMPT is about images, which every iteration sees; they are sent and encoded once.
    """
    from core.cli.loop_view import STOPPED
    from core.loop.config import LoopConfig

    settings = start_command()
    given = AnswerOptions.take(parameters).settings()
    given |= {"timeout_s": timeout, "time_budget_s": time_budget, **parameters}
    given = {name: value for name, value in given.items() if value is not None}
    if confidence is not None:
        given["confidence_threshold"] = confidence or None
    bar = PromptBar(settings, wanted=progress != "quiet")
    config = LoopConfig(**given, progress=bar.shown)
    text = read_prompt(prompt, stdin_is_taken=STDIN in images)
    shown = read_images(images, max_tokens=image_tokens, prompt=prompt)

    from core.omni_loop import OmniLoop

    with open_pool(skill, target) as pool, refusals_by_name(images):
        events = OmniLoop(config, pool=pool, skill=skill).stream(text, images=shown)
        with contextlib.closing(events):
            result = _show(events, settings, progress, bar)
    figures = result.iterations[result.best - 1].figures
    if not result.answer.strip():
        print(f"error: {why_empty(figures)} (the loop stopped: {STOPPED[result.stopped]})", file=sys.stderr)
        return ExitCode.FAILED
    if figures.finish_reason == "time_budget" and not settings.quiet:
        Paint(sys.stderr).line(f"cut off after {figures.tokens} tokens: the time was over", dim=True)
    return ExitCode.OK


def _show(events: Iterator[LoopEvent], settings: Settings, progress: str, bar: PromptBar) -> LoopResult:
    from core.cli.loop_view import LoopView, event_dict
    from core.loop.events import CallProgress, LoopFinished

    view = LoopView(out=Paint(sys.stdout), err=Paint(sys.stderr), settings=settings, progress=progress, bar=bar)
    try:
        for event in events:
            if settings.json and not isinstance(event, CallProgress):  # comes only if a terminal shows it
                print_json(event_dict(event))
            view.show(event)
            if isinstance(event, LoopFinished):
                return event.result
    finally:
        bar.clear()
    raise AssertionError("a loop that ends without an error ends with LoopFinished")
