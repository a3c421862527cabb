"""What all commands have in common: the options of how they talk, and what they end with."""

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
    """How a command talks."""

    json: bool = False
    """Standard output is JSON, one object a line."""
    stats: bool = False
    """Figures on standard error, also where nobody looks."""
    quiet: bool = False
    """Nothing on standard error but errors."""
    verbose: int = 0
    log_level: str | None = None
    debug: bool = False

    @property
    def traceback(self) -> bool:
        """Whether an error shows where it came from."""
        return self.debug or self.verbose > 1

    @property
    def level(self) -> int:
        """The level of the log."""
        if self.log_level is not None:
            return int(getattr(logging, self.log_level.upper()))
        if self.traceback:
            return logging.DEBUG
        if self.quiet:
            return logging.ERROR
        return logging.INFO if self.verbose else logging.WARNING


def current_settings() -> Settings:
    """The settings of the command that runs."""
    return click.get_current_context().ensure_object(Settings)


def print_json(value: Any) -> None:
    """Writes one line of JSON to standard output."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n")
    sys.stdout.flush()


def message_dict(message: Any) -> dict[str, Any]:
    """A protobuf message as plain values, names as in the proto, 64-bit numbers as numbers."""
    from google.protobuf.json_format import MessageToDict

    values: dict[str, Any] = MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    wide = {field.name for field in message.DESCRIPTOR.fields if field.cpp_type == field.CPPTYPE_INT64}
    names = [field.name for field in message.DESCRIPTOR.fields if field.name in values]  # in the proto's order
    # Protobuf's JSON writes 64-bit numbers as strings.
    return {name: int(values[name]) if name in wide else values[name] for name in names}


def _store(context: click.Context, option: click.Parameter, value: Any) -> None:
    # An option may stand before the command and after it: what is not given leaves what was.
    if value not in (None, False, 0):
        setattr(context.ensure_object(Settings), str(option.name), value)


_option = functools.partial(click.option, expose_value=False, callback=_store)


def common_options(command: _F) -> _F:
    """Adds the options that every command understands; see `Settings`. Plugins' commands may use it too."""
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
    """The settings of the command that begins, its texts checked; its log goes to standard error from now on.

    Raises:
        UsageError: a text is not valid UTF-8.
    """
    check_parameters(click.get_current_context())
    settings = current_settings()
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger().setLevel(settings.level)
    return settings


class ExitCode(IntEnum):
    """The exit codes of `sarai`; docs/cli.md shows them."""

    OK = 0
    FAILED = 1
    USAGE = 2
    UNAVAILABLE = 3
    INTERRUPTED = 130

    @property
    def meaning(self) -> str:
        """What it tells, in one line."""
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
    """The exit code for one of our errors."""
    from core import errors

    match error:
        case errors.LoopError():
            return exit_code_of(error.error)
        case errors.UnavailableError() | errors.SkillStartError() | errors.OverloadedError() | errors.NoComposeError():
            return ExitCode.UNAVAILABLE
        case errors.ConfigError() | errors.UnknownSkillError() | errors.InvalidRequestError():
            return ExitCode.USAGE
        case errors.CallCancelledError():
            return ExitCode.INTERRUPTED
        case _:
            return ExitCode.FAILED
