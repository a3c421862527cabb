"""The one place where text from outside is checked: options, arguments, their variables, files, standard input."""

from __future__ import annotations

from typing import Any

import click
from click.core import ParameterSource

from core.texts import not_utf8


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
