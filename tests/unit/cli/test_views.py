from __future__ import annotations

import os
import pty
import sys

import pytest

from core.cli.common import ExitCode
from core.cli.views import View, show
from tests.terminal import Screen


def test_a_watched_view_is_redrawn_in_place_on_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    views = iter([["a" * 50, "b"], ["c" * 50, "d"], ["e" * 20, "f"]])
    monkeypatch.setenv("COLUMNS", "20")
    written, terminal = "", pty.openpty()

    def look() -> View:
        if (lines := next(views, None)) is None:
            raise KeyboardInterrupt
        return lines, ExitCode.OK

    with os.fdopen(terminal[1], "w") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        with pytest.raises(KeyboardInterrupt):
            show(look, watch=True, interval_s=0.01)
        while "f\r\n" not in written:
            written += os.read(terminal[0], 4096).decode()
    os.close(terminal[0])
    screen = Screen(20, 10)
    screen.feed(written)
    assert screen.text == f"{'e' * 20}\nf"
