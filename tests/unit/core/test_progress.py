from __future__ import annotations

import logging
import os
import pty
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from core.local.progress import Absent, Progress, Serving, Starting, Waiting, report

if TYPE_CHECKING:
    import pytest

EVENTS: tuple[Progress, ...] = (
    Starting(skill="echo", log=Path("/l/echo.log"), restart=False),
    Waiting(skill="echo", elapsed_s=1.0),
    Serving(skill="echo", elapsed_s=1.5, target="unix:/s"),
    Absent(skill="echo", scaler="here:2"),
)


def test_what_has_to_be_waited_for_is_shown_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, terminal = pty.openpty()
    with os.fdopen(terminal, "w") as stderr:
        monkeypatch.setattr(sys, "stderr", stderr)
        for event in EVENTS:
            report(event)
        stderr.flush()
        shown = ""
        while shown.count("\n") < 2:
            shown += os.read(reader, 4096).decode()
    os.close(reader)
    assert shown.splitlines() == [
        "starting the echo skill as a local process (log: /l/echo.log)",
        "no replica of the echo skill is there: waiting for the autoscaler at here:2",
    ]


def test_nothing_is_shown_where_there_is_no_terminal(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        for event in EVENTS:
            report(event)
    assert capsys.readouterr() == ("", "")
    assert [record.levelname for record in caplog.records] == ["INFO", "INFO", "INFO"]
