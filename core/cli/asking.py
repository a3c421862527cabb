"""What a command asks a skill for: the prompt, and the options of the answer."""

from __future__ import annotations

import select
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import click

from core.cli.common import current_settings
from core.cli.parameters import EscapedText, SchemaOrFile, Whole, decoded
from core.cli.streams import is_terminal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from skills import skills_pb2


_CONSTRAINTS = ("grammar", "json_schema", "json_object", "regex")
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerOptions:
    """The options as given; None if one was not."""

    max_tokens: int | None
    temperature: float | None
    top_p: float | None
    top_k: int | None
    min_p: float | None
    repeat_penalty: float | None
    presence_penalty: float | None
    frequency_penalty: float | None
    seed: int | None
    stop: tuple[str, ...]
    system: str
    grammar: str | None
    json_schema: str | None
    regex: str | None
    close_json: int | None
    allow_weaker_schema: bool
    batch: bool
    lookup: bool

    @classmethod
    def take(cls, parameters: dict[str, Any]) -> Self:
        """Take these options out of the parameters of a command, and read the files that they name.

        Raises:
            UsageError: A file is not text, or more than one constraint was given.
        """
        given = [f"--{name.replace('_', '-')}" for name in _CONSTRAINTS if parameters[name]]
        if len(given) > 1:
            raise click.UsageError(f"give {' or '.join(given)}, not both")
        if parameters.pop("json_object"):
            parameters["json_schema"] = '{"type": "object"}'
        own = {name: parameters.pop(name) for name in cls.__dataclass_fields__ if name in parameters}
        for name in ("grammar", "json_schema"):
            own[name] = _read_text(own[name]) if isinstance(own[name], Path) else own[name]
        return cls(batch=parameters.pop("priority") == "batch", lookup=not parameters.pop("no_lookup"), **own)

    def settings(self) -> dict[str, Any]:
        """Return the given options by name, without those that were not given."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {name: value for name, value in values.items() if value is not None}

    def request(self) -> skills_pb2.GenReq:
        """Return a request with these options, without a prompt."""
        from skills import skills_pb2

        settings = self.settings()
        batch = settings.pop("batch")
        return skills_pb2.GenReq(
            priority=skills_pb2.PRIORITY_BATCH if batch else skills_pb2.PRIORITY_UNSPECIFIED, **settings
        )


def _read_text(path: Path) -> str:
    try:
        return decoded(path.read_bytes(), str(path))
    except OSError as error:
        raise click.UsageError(f"cannot read {path}: {error.strerror}") from error


def answer_options(*, temperature: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator that adds the options of `AnswerOptions`.

    Args:
        temperature: The default temperature, in words for the help.
    """

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        for name, settings in reversed(_options(temperature).items()):
            command = click.option(name, show_envvar="envvar" in settings, **settings)(command)
        return command

    return add


def _options(temperature: str) -> dict[str, dict[str, Any]]:
    number = click.FLOAT
    return {
        "--max-tokens": {
            "type": Whole(1), "envvar": "SARAI_MAX_TOKENS", "help": "Most tokens of an answer. Default: 256."
        },
        "--temperature": {
            "type": number, "envvar": "SARAI_TEMPERATURE", "help": f"0 is greedy, up to 5. Default: {temperature}."
        },
        "--top-p": {"type": number, "help": "Sample from the smallest set this probable in sum. Default: 0.95."},
        "--top-k": {"type": Whole(0), "help": "Sample from the k most probable tokens; 0: all. Default: 40."},
        "--min-p": {"type": number, "help": "Drop tokens less probable than this share of the best. Default: 0.05."},
        "--repeat-penalty": {"type": number, "help": "Divides the logits of recent tokens. Default: 1, which is off."},
        "--presence-penalty": {"type": number, "help": "Taken once from the logits of recent tokens. Default: 0."},
        "--frequency-penalty": {"type": number, "help": "Taken for each time that a token is recent. Default: 0."},
        "--seed": {"type": Whole(0, 2**32 - 1), "envvar": "SARAI_SEED", "help": "The same seed gives the same answer."},
        "--stop": {
            "type": EscapedText(), "multiple": True,
            "help": r"End the answer before this text; \n is a new line, \t a tab, \\ a backslash: \\theta is \theta. "
            "Repeatable.",
        },
        "--system": {"default": "", "envvar": "SARAI_SYSTEM", "help": "A system prompt.", "metavar": "TEXT"},
        "--grammar": {"type": _FILE, "help": "A file with a GBNF grammar that the answer must fit.", "metavar": "FILE"},
        "--json-schema": {
            "type": SchemaOrFile(), "help": "A JSON schema that the answer must fit, or a file that holds it.",
            "metavar": "FILE|TEXT",
        },
        "--json-object": {"is_flag": True, "help": "The answer is a JSON object, whichever."},
        "--regex": {"help": "A regular expression that the whole answer must match.", "metavar": "PATTERN"},
        "--close-json": {
            "type": Whole(0), "metavar": "TOKENS",
            "help": "Bring an answer that is cut off to a valid end, with at most this many more tokens.",
        },
        "--allow-weaker-schema": {
            "is_flag": True, "help": "Ignore what is not supported in the schema instead of refusing it."
        },
        "--priority": {
            "type": click.Choice(["interactive", "batch"]), "default": "interactive", "show_default": True,
            "help": "Whether a user is waiting for it.",
        },
        "--no-lookup": {"is_flag": True, "help": "No lookup speculation: slower, the same answer."},
    }  # fmt: skip


MAX_PIPED_BYTES = 1024 * 1024
"""Largest prompt that the contract allows."""
_HINT_AFTER_S = 2.0


def read_prompt(words: Sequence[str], *, stdin_is_taken: bool = False) -> str:
    """Return the prompt of a command: what is piped in, followed by the arguments.

    Args:
        words: The arguments, which are joined by spaces. A single `-` among them reads standard input, which is read
            anyway unless it is a terminal.
        stdin_is_taken: Whether something else is read from there.

    Raises:
        UsageError: There is no prompt, or it is not text, or too long.
    """
    argument = " ".join(word for word in words if word != "-")
    piped = ""
    if not stdin_is_taken and ("-" in words or not is_terminal(sys.stdin)):
        piped = _read_piped()
    prompt = "\n\n".join(part for part in (piped.rstrip("\n"), argument) if part.strip())
    if not prompt:
        context = click.get_current_context()
        print(context.get_help(), file=sys.stderr)
        print(file=sys.stderr)
        raise click.UsageError("there is no prompt: give it as an argument, or pipe it in")
    return prompt


def _read_piped() -> str:
    _hint_if_it_takes_long()
    raw = sys.stdin.buffer.read(MAX_PIPED_BYTES + 1)
    if len(raw) > MAX_PIPED_BYTES:
        raise click.UsageError(f"standard input is longer than {MAX_PIPED_BYTES} bytes, the most that a prompt may be")
    return decoded(raw, "standard input")


def _hint_if_it_takes_long() -> None:
    """Report what the command waits for, as a pipe may have been left open by accident."""
    try:
        ready, _, _ = select.select([sys.stdin], [], [], _HINT_AFTER_S)
    except (OSError, ValueError):  # not a stream that can be waited for
        return
    if not ready and not current_settings().quiet:
        print("waiting for the end of standard input (Ctrl-D, or run with </dev/null)", file=sys.stderr)
