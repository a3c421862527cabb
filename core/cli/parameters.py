"""The parameters of commands: types that click does not have, and the check that all text from outside is text."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from core.config import not_utf8

if TYPE_CHECKING:
    _Float = click.ParamType[float]
    _Int = click.ParamType[int]
    _Str = click.ParamType[str]
else:  # generic for type checkers alone before click 8.4
    _Float = _Int = _Str = click.ParamType

_ESCAPES = {r"\n": "\n", r"\t": "\t", r"\\": "\\"}
_WRITTEN = {character: escape for escape, character in _ESCAPES.items()}


class EscapeError(ValueError):
    """A backslash before something else."""


def unescape(text: str) -> str:
    r"""The text that is meant by one in which \n, \t and \\ stand for a line end, a tab and a backslash.

    No shell makes those easy to type.

    Raises:
        EscapeError: a backslash begins none of the escapes. It is not taken for itself: who writes `\alpha` and gets
            away with it would next write `\theta` and get a tab.
    """

    def meant(found: re.Match[str]) -> str:
        if found[0] not in _ESCAPES:
            raise EscapeError(rf"{found[0]} in {text} is none of \n, \t and \\: a backslash is written \\")
        return _ESCAPES[found[0]]

    return re.sub(r"\\.?", meant, text, flags=re.DOTALL)


def escape(text: str) -> str:
    """The text as it is typed."""
    return "".join(_WRITTEN.get(character, character) for character in text)


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
    """Text with the escapes of `unescape`."""

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


def check_parameters(context: click.Context) -> None:
    """Checks every parameter of a command that is text. Paths are not: a file's name may be any bytes.

    Raises:
        UsageError: one is not valid UTF-8; it is named as the user wrote it.
    """
    for parameter in context.command.params:
        if parameter.type is click.UNPROCESSED:
            continue
        for value in _values(context.params.get(str(parameter.name))):
            if why := not_utf8(value):
                raise click.UsageError(f"{_name(parameter, context)} is {why}")


def _values(value: Any) -> tuple[str, ...]:
    return tuple(each for each in (value if isinstance(value, tuple) else (value,)) if isinstance(each, str))


def _name(parameter: click.Parameter, context: click.Context) -> str:
    if context.get_parameter_source(str(parameter.name)) is ParameterSource.ENVIRONMENT:
        return str(parameter.envvar)
    return max(parameter.opts, key=len) if isinstance(parameter, click.Option) else parameter.human_readable_name


def decoded(raw: bytes, what: str) -> str:
    """The text of a file or of standard input, without its byte order mark.

    Raises:
        UsageError: it is not valid UTF-8.
    """
    text = raw.decode("utf-8", "surrogateescape")
    if why := not_utf8(text):
        raise click.UsageError(f"{what} is {why}")
    return text.removeprefix("\ufeff")
