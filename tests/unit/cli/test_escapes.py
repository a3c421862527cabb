from __future__ import annotations

import pytest
from click.testing import CliRunner

from core.cli.app import cli
from core.cli.parameters import EscapeError, unescape


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


@pytest.mark.parametrize("typed", [r"\alpha", r"\end{document}", "\\", "a\\", "\\\n"])
def test_unknown_escape_is_refused(typed: str) -> None:
    with pytest.raises(EscapeError, match=r"a backslash is written \\\\"):
        unescape(typed)
    result = CliRunner().invoke(cli, ["draft", "--stop", typed, "x"])
    assert result.exit_code == 2
    assert "--stop" in result.stderr
