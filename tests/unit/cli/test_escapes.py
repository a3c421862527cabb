from __future__ import annotations

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from core.cli.app import cli
from core.cli.parameters import EscapeError, escape, unescape


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (r"\n", "\n"),
        (r"a\tb", "a\tb"),
        (r"\\", "\\"),
        (r"\\theta", r"\theta"),
        (r"\\n", r"\n"),
        (r"\\\n", "\\\n"),
        (r"C:\\new", r"C:\new"),
        ("END", "END"),
        ("", ""),
    ],
)
def test_backslash_can_be_written(typed: str, meant: str) -> None:
    assert unescape(typed) == meant


@settings(max_examples=50)
@given(st.text(max_size=20))
def test_every_text_can_be_written(text: str) -> None:
    assert unescape(escape(text)) == text


@pytest.mark.parametrize("typed", [r"\alpha", r"\end{document}", "\\", "a\\", "\\\n"])
def test_unknown_escape_is_refused(typed: str) -> None:
    with pytest.raises(EscapeError, match=r"a backslash is written \\\\"):
        unescape(typed)
    result = CliRunner().invoke(cli, ["draft", "--stop", typed, "x"])
    assert result.exit_code == 2
    assert "--stop" in result.stderr
