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
    """Base of all errors of this library."""

    caller_fault: bool = False
    """Whether the caller can avoid it with another request."""
    retryable: bool = False
    """Whether the same request can succeed later."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Pickle cannot call constructors that take keywords only; process pools need errors to be picklable.
        return _revive, (type(self), self.args, self.__dict__)


class ConfigError(SaraiError, ValueError):
    """A setting is out of its range."""

    caller_fault = True


class PluginError(SaraiError):
    """A plugin could not be loaded. The others work.

    Attributes:
        name: Name of the plugin.
        path: File or entry point that it was loaded from.
        exception: What it raised.
    """

    def __init__(self, *, name: str, path: str, exception: BaseException) -> None:
        super().__init__(f"plugin {name} ({path}) is left out: {type(exception).__name__}: {one_line(str(exception))}")
        self.name = name
        self.path = path
        self.exception = exception


class ComposeError(SaraiError):
    """Compose or the container engine failed; the text contains its last message."""


class NoComposeError(ComposeError):
    """There is no container engine, no compose, or no compose project here."""


class UnknownSkillError(SaraiError, LookupError):
    """No plugin provides a skill of this name.

    Attributes:
        name: The requested name.
        known: Names of all skills, sorted.
        nearest: The most similar known name, or None.
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


class UnknownModelError(SaraiError, LookupError):
    """No catalogue has a model of this name."""

    caller_fault = True


class ModelFileError(SaraiError):
    """A model file is damaged, no model file, not what it should be, or cannot be written."""


class DownloadError(ModelFileError):
    """A model file could not be fetched. What has arrived is kept, unless it was wrong."""

    retryable = True


class ImageFileError(SaraiError, ValueError):
    """An image cannot be read, is no image of a kind that skills read, or is too large. The text names it."""

    caller_fault = True


class PoolClosedError(SaraiError):
    """The pool or the client is closed."""

    caller_fault = True


class AnswerError(SaraiError):
    """An answer came, but it does not give the object that was asked for.

    Attributes:
        text: The answer.
        response: The whole response.
    """

    def __init__(self, what: str, response: skills_pb2.GenResp) -> None:
        super().__init__(one_line(what))
        self.response = response
        self.text = response.text


class CutAnswerError(AnswerError):
    """The answer was cut off. Its text is what there is of it."""

    caller_fault = True


class InvalidAnswerError(AnswerError):
    """The answer is complete, but invalid: its type requires more than a JSON schema can express.

    Attributes:
        error: What is wrong with it; a `pydantic.ValidationError` if a type was asked for.
    """

    def __init__(self, what: str, response: skills_pb2.GenResp, error: BaseException) -> None:
        super().__init__(what, response)
        self.error = error


class LoopError(SaraiError):
    """There is no answer: the draft failed, or no answer is what `json_schema` asks for.

    Attributes:
        error: The reason, whose text is part of this one's. Also its `__cause__`.
    """

    def __init__(self, error: SaraiError) -> None:
        super().__init__(f"no answer: {error}")
        self.error = error
        self.caller_fault = error.caller_fault
        self.retryable = error.retryable


def one_line(text: str) -> str:
    """Return the text with every run of white space, including line ends, as one space."""
    return " ".join(text.split())
