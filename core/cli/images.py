"""The images that a command is given."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from core.cli.parameters import Whole
from core.cli.streams import is_terminal

if TYPE_CHECKING:
    from core.errors import SaraiError
    from skills import skills_pb2

STDIN = Path("-")


def image_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --image and --image-tokens."""
    command = image_tokens_option(command)
    return click.option(
        "--image", "images", type=click.Path(allow_dash=True, path_type=Path), multiple=True, metavar="FILE",
        help="An image that PROMPT is about: a PNG, JPEG, WebP, GIF or BMP; - reads it from standard input. "
        "The model sees several in their order, and all before PROMPT. Repeatable.",
    )(command)  # fmt: skip


def image_tokens_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --image-tokens."""
    return click.option(
        "--image-tokens", type=Whole(8, 1024), envvar="SARAI_IMAGE_TOKENS", show_envvar=True,
        help="Most tokens that an image is read as, 8 to 1024, each 32 x 32 pixels of it: more show finer detail and "
        "take longer. Default: 576.",
    )(command)  # fmt: skip


def read_images(paths: Sequence[Path], *, max_tokens: int | None, prompt: Sequence[str]) -> list[skills_pb2.Image]:
    """Return the images that a command is given.

    Args:
        paths: Their files; `-` is standard input.
        max_tokens: How many tokens each is read as at most; None for the skill's default.
        prompt: The words of the prompt, of which `-` is standard input too.

    Raises:
        UsageError: Standard input is to be read twice, or is a terminal.
        ImageFileError: One cannot be read.
    """
    from core.images import read_image

    if list(paths).count(STDIN) + ("-" in prompt) > 1:
        raise click.UsageError("standard input can be read once: give - to one --image, or as PROMPT")
    return [
        read_image(_piped(), max_tokens=max_tokens, name="standard input")
        if path == STDIN
        else read_image(path, max_tokens=max_tokens)
        for path in paths
    ]


@contextlib.contextmanager
def refusals_by_name(paths: Sequence[Path]) -> Iterator[None]:
    """Have errors name an image's file where a skill has refused it by its place in the request."""
    from core.errors import ImageFileError, SaraiError

    try:
        yield
    except SaraiError as error:
        for place, why in refused_images(error, turn=0):
            if place < len(paths):
                name = "standard input" if paths[place] == STDIN else paths[place]
                raise ImageFileError(f"{name}: {why}") from error
        raise


def refused_images(error: SaraiError, *, turn: int) -> Iterator[tuple[int, str]]:
    """Yield the places of images in a turn that a skill has refused, and why."""
    from core.errors import CallError, LoopError

    cause = error.error if isinstance(error, LoopError) else error
    for violation in cause.field_violations if isinstance(cause, CallError) else ():
        if place := re.match(rf"messages\[{turn}\]\.parts\[(\d+)\]\.image", violation.field):
            yield int(place[1]), violation.description


def _piped() -> bytes:
    if is_terminal(sys.stdin):
        raise click.UsageError("standard input is a terminal: pipe an image in, or give --image a file")
    return sys.stdin.buffer.read()
