"""What all commands share: options for their output, JSON, and exit codes."""

from __future__ import annotations

import functools
import json
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any, TypeVar

import click

from core.cli.parameters import check_parameters

if TYPE_CHECKING:
    from core.errors import SaraiError


_F = TypeVar("_F", bound=Callable[..., Any])
_LEVELS = ("debug", "info", "warning", "error")


@dataclass(slots=True)
class Settings:
    """Output settings of a command."""

    json: bool = False
    """Standard output is JSON, one object per line."""
    stats: bool = False
    """Figures go to standard error, even if that is not a terminal."""
    quiet: bool = False
    """Only errors go to standard error."""
    verbose: int = 0
    log_level: str | None = None
    debug: bool = False

    @property
    def traceback(self) -> bool:
        """Whether errors have a traceback."""
        return self.debug or self.verbose > 1

    @property
    def level(self) -> int:
        """Level of the log."""
        if self.log_level is not None:
            return int(getattr(logging, self.log_level.upper()))
        if self.traceback:
            return logging.DEBUG
        if self.quiet:
            return logging.ERROR
        return logging.INFO if self.verbose else logging.WARNING


def current_settings() -> Settings:
    """Return the settings of the current command."""
    return click.get_current_context().ensure_object(Settings)


def print_json(value: Any) -> None:
    """Write one line of JSON to standard output."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n")
    sys.stdout.flush()


def message_dict(message: Any) -> dict[str, Any]:
    """Return a protobuf message as plain values, with names as in the proto and 64-bit numbers as numbers."""
    from google.protobuf.json_format import MessageToDict

    values = MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    return _in_order(message.DESCRIPTOR, values)


def _in_order(descriptor: Any, values: dict[str, Any]) -> dict[str, Any]:
    """Return the values of a message in the proto's order. Protobuf's JSON writes 64-bit numbers as strings."""
    plain = {}
    for field in descriptor.fields:
        value = values.get(field.name)
        if isinstance(value, dict) and field.message_type:
            value = _in_order(field.message_type, value)
        elif isinstance(value, str) and field.cpp_type == field.CPPTYPE_INT64:
            value = int(value)
        if value is not None:
            plain[field.name] = value
    return plain


def _store(context: click.Context, option: click.Parameter, value: Any) -> None:
    # An option may come before or after the command: one that is not given changes nothing.
    if value not in (None, False, 0):
        setattr(context.ensure_object(Settings), str(option.name), value)


_option = functools.partial(click.option, expose_value=False, callback=_store)


def common_options(command: _F) -> _F:
    """Add the options of all commands; see `Settings`. Commands of plugins may use it too."""
    for option in (
        _option("--debug", is_flag=True, help="Log everything, and show where an error came from."),
        _option(
            "--log-level",
            type=click.Choice(_LEVELS),
            envvar="SARAI_LOG_LEVEL",
            show_envvar=True,
            help="Least level of what is logged to standard error. Default: warning.",
        ),
        _option("-v", "--verbose", count=True, help="Log more; -vv is --debug."),
        _option("-q", "--quiet", is_flag=True, help="Nothing on standard error but errors."),
        _option("--stats", is_flag=True, help="Figures on standard error, also where it is no terminal."),
        _option("--json", is_flag=True, help="JSON on standard output, one object a line."),
    ):
        command = option(command)
    return command


def start_command() -> Settings:
    """Check the texts of the current command, set up its log, and return its settings.

    Raises:
        UsageError: A text is not valid UTF-8.
    """
    check_parameters(click.get_current_context())
    settings = current_settings()
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger().setLevel(settings.level)
    return settings


class ExitCode(IntEnum):
    """Exit codes of `sarai`; docs/cli.md lists them."""

    OK = 0
    FAILED = 1
    USAGE = 2
    UNAVAILABLE = 3
    INTERRUPTED = 130

    @property
    def meaning(self) -> str:
        """Its meaning, in one line."""
        return _MEANINGS[self]


_MEANINGS = {
    ExitCode.OK: "It did what it was asked for.",
    ExitCode.FAILED: "It failed: the skill failed, nothing was written by the deadline.",
    ExitCode.USAGE: "The command or the request is wrong: an unknown option, command or skill, "
    "a setting out of its range, no prompt.",
    ExitCode.UNAVAILABLE: "The skill is not healthy or not there: not serving, does not start, "
    "cannot be reached, has too much to do.",
    ExitCode.INTERRUPTED: "Ctrl-C.",
}


def exit_code_of(error: SaraiError) -> ExitCode:
    """Return the exit code for an error."""
    from core import errors

    match error:
        case errors.LoopError():
            return exit_code_of(error.error)
        case errors.UnavailableError() | errors.SkillStartError() | errors.OverloadedError() | errors.NoComposeError():
            return ExitCode.UNAVAILABLE
        case (
            errors.ConfigError()
            | errors.ImageFileError()
            | errors.UnknownSkillError()
            | errors.UnknownModelError()
            | errors.InvalidRequestError()
        ):
            return ExitCode.USAGE
        case errors.CallCancelledError():
            return ExitCode.INTERRUPTED
        case _:
            return ExitCode.FAILED
