"""What every command understands: --json, --stats, -q, -v, --log-level, --debug."""

from __future__ import annotations

import functools
import json
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from core.cli.texts import check_parameters

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
