"""Markdown on a terminal while it comes, by rich: finished blocks stay, and only the last one is redrawn."""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING, TextIO

from markdown_it import MarkdownIt
from rich.console import Console
from rich.live import Live
from rich.markdown import Markdown
from rich.segment import Segment
from rich.theme import Theme

from core.cli.streams import harmless

if TYPE_CHECKING:
    from markdown_it.token import Token
    from rich.console import ConsoleOptions, RenderResult

# No text may be lost: HTML, images, bare links and link definitions, which rich omits or repeats, are shown as text.
_PARSER = MarkdownIt("commonmark", {"html": False}).enable(["strikethrough", "table"])
_PARSER.disable(["image", "autolink", "reference"])
_THEME = Theme({"markdown.code": "bold cyan", "markdown.code_block": "cyan"})
# Drawing takes at most a fifth of the time, as the model needs the CPU too.
_PAUSE = 4.0


class MarkdownStream:
    """Shows a text as Markdown while it comes.

    Args:
        stream: A terminal.
        color: Whether to use colours.
    """

    def __init__(self, stream: TextIO, *, color: bool) -> None:
        self._console = Console(file=stream, force_terminal=True, no_color=not color, highlight=False, theme=_THEME)
        self._live = Live(
            console=self._console, auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False,
            vertical_overflow="visible",
        )  # fmt: skip
        self._source = ""
        """The text that may still be redrawn."""
        self._follows = False
        """Whether the next block needs an empty line before it."""
        self._next_s = 0.0

    def write(self, text: str) -> None:
        """Add a piece of the text."""
        self._source += harmless(text)
        *ended, self._source = blocks(self._source) if "\n" in text else [self._source]
        for block in ended:
            self._print(block)
        if not ended and time.monotonic() < self._next_s:
            return
        began_s = time.monotonic()
        self._live.start()
        # More lines than the screen has could not be redrawn.
        self._live.update(
            _Block(self._source, follows=self._follows, last_lines=self._console.height - 1), refresh=True
        )
        self._next_s = time.monotonic() + _PAUSE * (time.monotonic() - began_s)

    def close(self) -> None:
        """Print the rest, so that the screen has the text once, and the cursor below it."""
        if self._source.strip():
            self._print(self._source)
        self._source = ""
        self._live.stop()

    def _print(self, block: str) -> None:
        """Print a finished block, above an empty live area."""
        self._live.update("")
        self._console.print(_Block(block, follows=self._follows))
        self._follows = True


def parse(source: str) -> list[Token]:
    """Return the tokens of a text, in which line ends count, as in a poem."""
    tokens = _PARSER.parse(source)
    for child in itertools.chain.from_iterable(token.children or () for token in tokens):
        if child.type == "softbreak":
            child.type = "hardbreak"
    return tokens


def blocks(source: str) -> list[str]:
    """Return the top-level blocks of a growing text; all but the last are final.

    Only complete lines are decisive: `--` may become a rule, and a pipe the first cell of a table.
    """
    tokens = parse(source.rpartition("\n")[0])
    starts = [token.map[0] for token in tokens if token.level == 0 and token.map and token.nesting >= 0]
    lines = source.split("\n")
    bounds = [0, *starts[1:], len(lines)]
    return ["\n".join(lines[begin:end]) for begin, end in itertools.pairwise(bounds)]


class _Block:
    """One block, with its own line ends, and an empty line before it if it follows another.

    Args:
        source: Its Markdown.
        follows: Whether it follows another.
        last_lines: Show only this many of its last lines; by default all.
    """

    def __init__(self, source: str, *, follows: bool, last_lines: int = 0) -> None:
        self._markdown = Markdown("", code_theme="ansi_dark", hyperlinks=False)
        self._markdown.parsed = parse(source)
        self._follows, self._last_lines = follows, last_lines

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = console.render_lines(self._markdown, options, pad=False)
        # Rich puts empty lines around some kinds of block.
        while lines and _is_empty(lines[-1]):
            lines.pop()
        lines = list(itertools.dropwhile(_is_empty, lines))
        if self._follows:
            lines.insert(0, [])
        for line in lines[-self._last_lines :]:
            yield from line
            yield Segment.line()


def _is_empty(line: list[Segment]) -> bool:
    return not any(segment.text.strip() for segment in line)
