"""Types of options that click does not have: ranges that are checked, but do not clutter the help."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from core.cli.escapes import EscapeError, unescape

if TYPE_CHECKING:
    _Float = click.ParamType[float]
    _Int = click.ParamType[int]
    _Str = click.ParamType[str]
else:  # generic for type checkers alone before click 8.4
    _Float = _Int = _Str = click.ParamType


class Seconds(_Float):
    """A time in seconds, above 0 and at most what the wire can carry in milliseconds."""

    name = "seconds"
    _MOST = 2_000_000.0

    def convert(self, value: str | float, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The seconds."""
        try:
            seconds = float(value)
        except ValueError:
            seconds = math.nan
        if not 0 < seconds <= self._MOST:
            self.fail(f"{value!r} is not a number of seconds above 0, up to {self._MOST:.0f}.", param, ctx)
        return seconds


class Whole(_Int):
    """A whole number.

    Args:
        least: the least that is allowed.
        most: the greatest; by default the greatest that a field of the wire can hold.
    """

    name = "integer"

    def __init__(self, least: int, most: int = 2**31 - 1) -> None:
        self._least, self._most = least, most

    def convert(self, value: str | int, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number."""
        try:
            number = int(value)
        except ValueError:
            self.fail(f"{value!r} is not a whole number.", param, ctx)
        if not self._least <= number <= self._most:
            self.fail(f"{value!r} is not in the range {self._least} to {self._most}.", param, ctx)
        return number


class EscapedText(_Str):
    """Text with the escapes of `core.cli.escapes`."""

    name = "text"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The text that is meant."""
        try:
            return unescape(value)
        except EscapeError as error:
            self.fail(str(error), param, ctx)


class SchemaOrFile(click.Path):
    """A JSON schema, which begins with a brace, or the file that holds it."""

    def __init__(self) -> None:
        super().__init__(exists=True, dir_okay=False, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The schema as it is, or the path."""
        return value if str(value).lstrip().startswith("{") else super().convert(value, param, ctx)
