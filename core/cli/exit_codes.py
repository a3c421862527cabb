"""What a command ends with. The one table; docs/cli.md shows it."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from core.errors import SaraiError


class ExitCode(IntEnum):
    """The exit codes of `sarai`."""

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
    from core.loop.run import LoopError

    match error:
        case LoopError():
            return exit_code_of(error.error)
        case errors.UnavailableError() | errors.SkillStartError() | errors.OverloadedError() | errors.NoComposeError():
            return ExitCode.UNAVAILABLE
        case errors.ConfigError() | errors.UnknownSkillError() | errors.InvalidRequestError():
            return ExitCode.USAGE
        case errors.CallCancelledError():
            return ExitCode.INTERRUPTED
        case _:
            return ExitCode.FAILED
