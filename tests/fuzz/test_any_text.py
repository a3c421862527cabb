"""Any text: as Markdown on the screen, as an argument, and as what a model answers in the loop."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.cli.markdown import blocks
from core.cli.parameters import escape, unescape
from core.loop.prompts import detect_language, finds_nothing
from tests.unit.cli.test_markdown import at_once, small_terminal, streamed, without_empty_lines  # noqa: F401
from tests.unit.loop.test_prompts import LANGUAGES

# As models write it: every kind of block, complete or not.
LINES = st.sampled_from(
    ["", "text", "more **text**", "- item", "  - deeper", "1. one", "# head", "---", "===", "```", "```py", "> quote",
     "    code", "| a | b |", "|---|---|", "<b>html</b>", "![x](y)", "[x]: y", "* * *", "\\", "a  ", "[x](y)", "`"]
)  # fmt: skip


@pytest.mark.usefixtures("small_terminal")
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines=st.lists(LINES, max_size=12), size=st.integers(1, 20))
def test_any_markdown_is_on_the_screen_as_if_it_had_come_at_once(lines: list[str], size: int) -> None:
    text = "\n".join(lines)
    assert without_empty_lines(streamed(text, size)) == at_once(text)


@given(st.lists(LINES, max_size=30))
def test_blocks_are_the_text(lines: list[str]) -> None:
    assert "\n".join(blocks("\n".join(lines))) == "\n".join(lines)


@settings(max_examples=50)
@given(st.text(max_size=20))
def test_every_text_can_be_written(text: str) -> None:
    assert unescape(escape(text)) == text


@given(st.text())
def test_any_text_is_understood_one_way_or_the_other(text: str) -> None:
    assert finds_nothing(text) in (True, False)
    assert detect_language(text) in LANGUAGES
