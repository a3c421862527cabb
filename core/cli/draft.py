"""`sarai draft`: one answer to one prompt, shown while it is generated."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from core.cli.answer_view import PromptBar, answer_view, describe, where, why_empty
from core.cli.asking import AnswerOptions, answer_options, read_prompt
from core.cli.common import ExitCode, Settings, common_options, message_dict, print_json, start_command
from core.cli.images import STDIN, image_options, read_images, refusals_by_name
from core.cli.parameters import Seconds, Whole
from core.cli.pool import open_pool, skill_options
from core.cli.streams import Paint

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from skills import skills_pb2

_EPILOG = """\b
Examples:
  sarai draft "Write a haiku about rain"
  cat notes.txt | sarai draft "Summarise this" > summary.txt
  sarai draft --image photo.jpg "What is this?"
  sarai draft --temperature 0 --max-tokens 40 --stop '\\n' "The capital of Spain is"
  sarai draft --json "Hello" | jq -r 'select(.event == "result").text'
  sarai draft --json-schema person.json "Invent a person"
  sarai draft --regex '(yes|no)' "Is a whale a fish?"
"""


@click.command(epilog=_EPILOG, short_help="Answer a prompt once.")
@click.argument("prompt", nargs=-1)
@skill_options
@image_options
@answer_options(temperature="0.7")
@click.option("--raw", is_flag=True, help="Give the prompt to the model as it is, without its chat template, and show "
              "the answer as it is, without Markdown.")  # fmt: skip
@click.option("--no-markdown", is_flag=True, help="Show the answer as it comes, also on a terminal.")
@click.option("--candidates", type=Whole(1, 8), default=1, help="Number of answers, up to 8, separated by ---.")
@click.option("--time-budget", type=Seconds(), help="Take the answer so far after this time.")
@click.option(
    "--timeout", type=Seconds(), envvar="SARAI_CALL_TIMEOUT_S", show_envvar=True,
    help="Give up after this time. Default: 120.",
)  # fmt: skip
@common_options
def draft(
    *,
    prompt: tuple[str, ...],
    skill: str,
    target: str | None,
    images: tuple[Path, ...],
    image_tokens: int | None,
    timeout: float | None,
    time_budget: float | None,
    candidates: int,
    raw: bool,
    no_markdown: bool,
    **parameters: Any,
) -> int:
    """Answer PROMPT once, and show the answer while it is generated.

    Piped input is put before PROMPT; a single - as PROMPT reads standard input in any case.
    With --image, PROMPT is about images; the model must be one that reads them.
    """
    settings = start_command()
    options = AnswerOptions.take(parameters)
    if raw and images:
        raise click.UsageError("--raw gives the model a text alone: leave out --raw or --image")
    request = options.request()
    _ask(request, prompt, images, image_tokens)
    request.raw, request.num_candidates = raw, candidates
    request.time_budget_ms = int((time_budget or 0) * 1000)
    # JSON, and other answers with a form of their own, are shown as they are.
    markdown = not (raw or no_markdown or request.WhichOneof("constraint"))
    bar = PromptBar(settings)
    request.progress = bar.shown
    with open_pool(skill, target) as pool, refusals_by_name(images):
        client = pool.get_skill_client(skill)
        with client.GenerateStream(request, timeout=timeout) as stream:
            pieces = bar.over(stream)
            if settings.json:
                response = _show_json(pieces)
            elif candidates > 1:
                response = _show_several(pieces)
            else:
                response = _show_text(pieces, markdown=markdown)
        code = _conclude(response, settings, origin=client.origin, target=client.target)
    if response is not None and request.json_schema:
        from core.pool.structured import shape_of

        shape_of(request.json_schema).parse(request, response)  # the error explains why it is not the JSON asked for
    return code


def _ask(
    request: skills_pb2.GenReq, words: tuple[str, ...], images: tuple[Path, ...], image_tokens: int | None
) -> None:
    """Put the prompt and its images into a request."""
    text = read_prompt(words, stdin_is_taken=STDIN in images)
    if not images:
        request.prompt = text
        return
    from core.images import user_turn

    shown = read_images(images, max_tokens=image_tokens, prompt=words)
    request.messages.append(user_turn(text, images=shown))


def _show_text(stream: Iterator[skills_pb2.GenChunk], *, markdown: bool) -> skills_pb2.GenResp | None:
    """Write the answer piece by piece."""
    response = None
    with answer_view(markdown=markdown) as write:
        for chunk in stream:
            if chunk.text:
                write(chunk.text)
            if chunk.HasField("result"):
                response = chunk.result
    return response


def _show_several(stream: Iterator[skills_pb2.GenChunk]) -> skills_pb2.GenResp | None:
    """Write the answers one after the other, once all are complete."""
    response = next((chunk.result for chunk in stream if chunk.HasField("result")), None)
    if response is not None:
        with answer_view(markdown=False) as write:
            write("\n---\n".join(candidate.text for candidate in response.candidates))
    return response


def _show_json(stream: Iterator[skills_pb2.GenChunk]) -> skills_pb2.GenResp | None:
    """Write a line for each piece, and one for the whole answer."""
    response = None
    for chunk in stream:
        if chunk.text:
            print_json({"event": "piece", "candidate": chunk.candidate, "text": chunk.text})
        if chunk.HasField("result"):
            response = chunk.result
            print_json({"event": "result", **message_dict(response)})
    return response


def _conclude(response: skills_pb2.GenResp | None, settings: Settings, *, origin: str, target: str) -> int:
    from core.loop.result import CallFigures

    if response is None:
        print("error: the stream ended without a result", file=sys.stderr)
        return ExitCode.FAILED
    paint = Paint(sys.stderr)
    figures = CallFigures.of(response)
    if settings.stats:
        paint.line(f"{describe(figures)}; by {response.model} {where(origin, target)}, seed {response.seed}", dim=True)
    elif figures.finish_reason == "length" and paint.terminal and not settings.quiet:
        paint.line(f"cut off after {figures.tokens} tokens (--max-tokens)", dim=True)
    if any(candidate.text for candidate in response.candidates) or response.text:
        if figures.finish_reason == "time_budget" and not settings.quiet:
            paint.line(f"cut off after {figures.tokens} tokens: the time was over", dim=True)
        return ExitCode.OK
    if figures.finish_reason == "time_budget":
        print(f"error: {why_empty(figures)}", file=sys.stderr)
        return ExitCode.FAILED
    print(why_empty(figures), file=sys.stderr)
    return ExitCode.OK
