from __future__ import annotations

import io

import pytest

from core.cli.streams import Paint, wants_color


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("terminal", "environ", "color"),
    [
        (True, {}, True),
        (True, {"TERM": "xterm"}, True),
        (False, {}, False),
        (True, {"TERM": "dumb"}, False),
        (True, {"NO_COLOR": "1"}, False),
        (True, {"NO_COLOR": ""}, True),
        (False, {"FORCE_COLOR": "1"}, True),
        (True, {"FORCE_COLOR": "1", "TERM": "dumb"}, True),
        (True, {"FORCE_COLOR": "0"}, False),
        (True, {"FORCE_COLOR": "1", "NO_COLOR": "1"}, False),
    ],
)
def test_no_color_beats_force_color_beats_the_terminal(terminal: bool, environ: dict[str, str], color: bool) -> None:
    assert wants_color(Terminal() if terminal else io.StringIO(), environ) is color


def test_closed_stream_is_no_terminal() -> None:
    stream = io.StringIO()
    stream.close()
    assert not wants_color(stream, {})


def test_answer_cannot_drive_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    stream = Terminal()
    Paint(stream).write("a\x1b]0;owned\x07b\r\n\tc\x9b2Jñ")
    assert stream.getvalue() == "a]0;ownedb\n\tc2Jñ"


def test_pipe_gets_the_answer_byte_for_byte() -> None:
    stream = io.StringIO()
    Paint(stream).write("a\x1b[1mb\r\n", bold=True)
    assert stream.getvalue() == "a\x1b[1mb\r\n"
