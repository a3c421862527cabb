"""A terminal's content after a program has written to it; it understands as much as rich needs."""

from __future__ import annotations

import re

_PART = re.compile(r"\x1b\[(?P<parameters>[?0-9;]*)(?P<command>[A-Za-z])|(?P<character>.)", re.DOTALL)


class Screen:
    """A terminal, including what has scrolled off its top. An unknown sequence fails the test.

    Args:
        columns: its width.
        rows: its height.
    """

    def __init__(self, columns: int, rows: int) -> None:
        self._columns, self._rows = columns, rows
        self._lines: list[list[str]] = [[]]
        self._row = self._column = 0

    @property
    def text(self) -> str:
        """Return all lines, including those above the screen, without trailing blanks."""
        return "\n".join("".join(line).rstrip() for line in self._lines).rstrip("\n")

    def feed(self, written: str) -> None:
        """Process what a program has written."""
        for part in _PART.finditer(written):
            if part["character"]:
                self._put(part["character"])
            else:
                self._control(part["command"], part["parameters"])

    def _put(self, character: str) -> None:
        if character == "\r":
            self._column = 0
        elif character == "\n":
            self._down()
        else:
            assert character.isprintable(), f"{character!r} was written to a terminal"
            if self._column == self._columns:
                self._down()
            line = self._lines[self._row]
            line += " " * (self._column + 1 - len(line))
            line[self._column] = character
            self._column += 1

    def _down(self) -> None:
        self._row, self._column = self._row + 1, 0
        if self._row == len(self._lines):
            self._lines.append([])

    def _control(self, command: str, parameters: str) -> None:
        match command, parameters:
            case "A", "1":
                assert self._row > max(0, len(self._lines) - self._rows), "the cursor cannot move above the screen"
                self._row -= 1
            case "F", number:
                self._row, self._column = self._row - int(number), 0
                assert self._row >= 0
            case "J", "":
                del self._lines[self._row :]
                self._lines.append([])
            case "K", "2":
                self._lines[self._row].clear()
            case ("m", _) | ("h" | "l", "?25"):
                pass
            case _:
                raise AssertionError(f"unknown sequence {command!r} {parameters!r}")
