"""A progress line on the terminal for a long step, with an estimate of the remaining time."""

from __future__ import annotations

import os
import shutil
import sys
import time
from typing import TextIO

_REDRAW_S = 0.1
_PLAIN_LINE_S = 15.0
_BAR_WIDTH = 28


def clock(seconds: float) -> str:
    """Format a duration for people: `45 s`, `3:20 min`."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    return f"{minutes}:{rest:02d} min" if minutes else f"{rest} s"


class Progress:
    """One step's progress: a bar that is redrawn on a terminal, else a line every 15 seconds."""

    def __init__(self, label: str, *, expected_s: float, stream: TextIO | None = None) -> None:
        """Start the clock.

        Args:
            label: The step, in a few words.
            expected_s: How long it should take, for the estimate until the step reports its own progress.
            stream: Where to write; standard error by default.
        """
        self._label = label
        self._expected_s = expected_s
        self._stream = sys.stderr if stream is None else stream
        self._live = self._stream.isatty() and os.environ.get("TERM") != "dumb"
        self._start = time.monotonic()
        self._measured_from = (0.0, 0.0)  # (elapsed, fraction) where the step's own report began
        self._fraction = 0.0
        self._note = ""
        self._last_draw = self._start
        if not self._live:
            self._line(f"{label}: about {clock(expected_s)}")

    def update(self, fraction: float, note: str = "") -> None:
        """Report what share of the work is done, 0 to 1; it never decreases."""
        if self._fraction == 0.0 and fraction > 0.0:
            self._measured_from = (self.elapsed_s, 0.0)
        self._fraction = max(self._fraction, min(1.0, fraction))
        self._note = note
        self.tick()

    def tick(self) -> None:
        """Show that time passes; call it often, it rarely draws."""
        now = time.monotonic()
        if now - self._last_draw < (_REDRAW_S if self._live else _PLAIN_LINE_S):
            return
        self._last_draw = now
        if self._live:
            self._redraw(self._text(bar=True))
        else:
            self._line(self._text(bar=False))

    def finish(self, outcome: str) -> None:
        """Replace the bar by a last line, `label: outcome (elapsed)`."""
        text = f"{self._label}: {outcome} ({clock(self.elapsed_s)})"
        if self._live:
            self._redraw(text)
            self._stream.write("\n")
            self._stream.flush()
        else:
            self._line(text)

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._start

    def left_s(self) -> float:
        """Estimate the remaining seconds; past the estimate it is 0, not negative."""
        since, _ = self._measured_from
        measured = self.elapsed_s - since
        if self._fraction < 0.05 or measured < 5.0:
            return max(0.0, self._expected_s - self.elapsed_s)
        return measured / self._fraction * (1.0 - self._fraction)

    def _text(self, *, bar: bool) -> str:
        share = f"{self._fraction:4.0%}" if self._fraction else " ..."
        drawn = ""
        if bar:
            full = round(self._fraction * _BAR_WIDTH)
            drawn = "[" + "#" * full + "." * (_BAR_WIDTH - full) + "]"
        left = f"about {clock(self.left_s())} left"
        parts = [f"{self._label}:", drawn, share, f"{clock(self.elapsed_s)}, {left}", self._note]
        return " ".join(part for part in parts if part)

    def _redraw(self, text: str) -> None:
        width = shutil.get_terminal_size().columns - 1
        self._stream.write("\r\x1b[K" + text[:width])
        self._stream.flush()

    def _line(self, text: str) -> None:
        self._stream.write(text + "\n")
        self._stream.flush()
