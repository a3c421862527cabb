"""The errors that need no gRPC."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable

    from skills import skills_pb2

_E = TypeVar("_E", bound="SaraiError")


def _revive(cls: type[_E], args: tuple[Any, ...], state: dict[str, Any]) -> _E:
    error = cls.__new__(cls, *args)
    error.__dict__.update(state)
    return error


class SaraiError(Exception):
    """Whatever this library raises on purpose."""

    caller_fault: bool = False
    """Whether the caller can mend it by asking for something else."""
    retryable: bool = False
    """Whether the same again can succeed later."""

    def __reduce__(self) -> tuple[Any, ...]:
        # The constructors take keywords only, which is more than pickle knows how to call; process pools need this.
        return _revive, (type(self), self.args, self.__dict__)


class ConfigError(SaraiError, ValueError):
    """A setting is out of its range."""

    caller_fault = True


class PluginError(SaraiError):
    """A plugin could not be loaded. The others go on working.

    Attributes:
        name: the plugin's name.
        path: the file or the entry point that it was loaded from.
        exception: what it raised.
    """

    def __init__(self, *, name: str, path: str, exception: BaseException) -> None:
        super().__init__(f"plugin {name} ({path}) is left out: {type(exception).__name__}: {one_line(str(exception))}")
        self.name = name
        self.path = path
        self.exception = exception


class ComposeError(SaraiError):
    """Compose, or the container engine, failed; the text has what it said last."""


class NoComposeError(ComposeError):
    """There is no container engine, no compose, or no compose project here."""


class UnknownSkillError(SaraiError, LookupError):
    """No plugin brings a skill of this name.

    Attributes:
        name: what was asked for.
        known: the names of all skills, sorted.
        nearest: the known name most like it, or None.
    """

    caller_fault = True

    def __init__(self, name: str, known: Iterable[str], *, left_out: Iterable[str] = ()) -> None:
        self.name = name
        self.known = tuple(sorted(known))
        self.nearest = next(iter(difflib.get_close_matches(name, self.known, n=1)), None)
        text = f"there is no skill {name!r}"
        text += f"; did you mean {self.nearest!r}?" if self.nearest else "."
        text += f" Known: {', '.join(self.known)}." if self.known else " No skill is known."
        failed = tuple(left_out)
        text += f" Plugins that failed to load: {', '.join(failed)}; `sarai skills` says why." if failed else ""
        super().__init__(text)


class PoolClosedError(SaraiError):
    """The pool, or the client, was closed before."""

    caller_fault = True


class AnswerError(SaraiError):
    """An answer came, but the object that was asked for cannot be made of it.

    Attributes:
        text: the answer.
        response: the answer with all that the skill said of it.
    """

    def __init__(self, what: str, response: skills_pb2.GenResp) -> None:
        super().__init__(one_line(what))
        self.response = response
        self.text = response.text


class CutAnswerError(AnswerError):
    """The answer was ended before it was whole. Its text is what was written so far."""

    caller_fault = True


class InvalidAnswerError(AnswerError):
    """The answer is whole, but not valid: its type asks for more than a JSON schema can say.

    Attributes:
        error: what is wrong with it; a `pydantic.ValidationError` where a type was asked for.
    """

    def __init__(self, what: str, response: skills_pb2.GenResp, error: BaseException) -> None:
        super().__init__(what, response)
        self.error = error


class LoopError(SaraiError):
    """There is no answer: the draft failed, or no answer is what `json_schema` asks for.

    Attributes:
        error: why. Its text is this one's, and it is its `__cause__` too.
    """

    def __init__(self, error: SaraiError) -> None:
        super().__init__(f"no answer: {error}")
        self.error = error
        self.caller_fault = error.caller_fault
        self.retryable = error.retryable


def one_line(text: str) -> str:
    """The text with every run of white space, line ends included, as one space."""
    return " ".join(text.split())
