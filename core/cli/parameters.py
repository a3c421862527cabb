"""Parameters of commands: types that click lacks, and the check that all text from outside is valid UTF-8."""

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
    """A backslash that begins no escape."""


def unescape(text: str) -> str:
    r"""Return a text with \n, \t and \\ replaced by a line end, a tab and a backslash, hard to type in a shell.

    Raises:
        EscapeError: A backslash begins no escape. It does not stand for itself: a user for whom `\alpha` works would
            next write `\theta` and get a tab.
    """

    def meant(found: re.Match[str]) -> str:
        if found[0] not in _ESCAPES:
            raise EscapeError(rf"{found[0]} in {text} is none of \n, \t and \\: a backslash is written \\")
        return _ESCAPES[found[0]]

    return re.sub(r"\\.?", meant, text, flags=re.DOTALL)


def escape(text: str) -> str:
    """Return the text as it is typed, the inverse of `unescape`."""
    return "".join(_WRITTEN.get(character, character) for character in text)


class Seconds(_Float):
    """A time in seconds, above 0 and at most what the contract can hold in milliseconds."""

    name = "seconds"
    _MOST = 2_000_000.0

    def convert(self, value: str | float, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the seconds."""
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
        least: Smallest allowed number.
        most: Largest allowed number; by default the largest that a field of the contract can hold.
    """

    name = "integer"

    def __init__(self, least: int, most: int = 2**31 - 1) -> None:
        self._least, self._most = least, most

    def convert(self, value: str | int, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the number."""
        try:
            number = int(value)
        except ValueError:
            self.fail(f"{value!r} is not a whole number.", param, ctx)
        if not self._least <= number <= self._most:
            self.fail(f"{value!r} is not in the range {self._least} to {self._most}.", param, ctx)
        return number


class HostPort(_Str):
    """An address to listen on. gRPC would take the lower 16 bits of a port that is too large."""

    name = "address"
    _MOST_PORT = 65_535

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the address as it is."""
        host, colon, port = value.rpartition(":")
        if not (host and colon and port.isdecimal() and int(port) <= self._MOST_PORT):
            self.fail(f"{value!r} is not HOST:PORT, with a port up to {self._MOST_PORT}.", param, ctx)
        return value


class EscapedText(_Str):
    """Text with the escapes of `unescape`."""

    name = "text"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the unescaped text."""
        try:
            return unescape(value)
        except EscapeError as error:
            self.fail(str(error), param, ctx)


class SchemaOrFile(click.Path):
    """A JSON schema, which begins with a brace, or a file that contains one."""

    def __init__(self) -> None:
        super().__init__(exists=True, dir_okay=False, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the schema as it is, or the path."""
        return value if str(value).lstrip().startswith("{") else super().convert(value, param, ctx)


def check_parameters(context: click.Context) -> None:
    """Check all text parameters of a command. Paths are exempt, as a file name may be any bytes.

    Raises:
        UsageError: One is not valid UTF-8; it is named as the user wrote it.
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
    """Return the text of a file or of standard input, without its byte order mark.

    Raises:
        UsageError: It is not valid UTF-8.
    """
    text = raw.decode("utf-8", "surrogateescape")
    if why := not_utf8(text):
        raise click.UsageError(f"{what} is {why}")
    return text.removeprefix("\ufeff")
