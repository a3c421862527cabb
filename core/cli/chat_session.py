"""A conversation with a skill: it only grows, so that each turn's prompt is in the skill's cache but for its end."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from core.cli.parameters import EscapeError, escape, unescape
from core.loop.conversation import turn_of
from skills import skills_pb2

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
    from pathlib import Path

    from core.pool.client import SkillClient

_WHOLE = ("max_tokens", "top_k", "seed", "time_budget_ms")
DEFAULTS = {
    "temperature": "0.7",
    "top_p": "0.95",
    "top_k": "40",
    "min_p": "0.05",
    "repeat_penalty": "1",
    "presence_penalty": "0",
    "frequency_penalty": "0",
    "max_tokens": "256",
    "time_budget_ms": "none",
    "seed": "another one for each answer",
    "stop": "none",
    "system": "none",
}
"""What `/set` may set, all fields of GenReq, and what the contract says of each that is not set."""


_READERS: Mapping[str, Callable[[str], Any]] = {**dict.fromkeys(_WHOLE, int), "system": str}


class SettingError(ValueError):
    """A `/set` that cannot be."""


class ChatSession:
    """The turns so far, and the settings of the next answer.

    Args:
        client: who answers.
        template: a request without a prompt; its settings are those of every answer.
        timeout_s: the deadline of an answer, None for the pool's.
        watch: the messages of each answer go through it.
    """

    def __init__(
        self,
        client: SkillClient,
        template: skills_pb2.GenReq,
        *,
        timeout_s: float | None = None,
        watch: Callable[[Iterable[skills_pb2.GenChunk]], Iterator[skills_pb2.GenChunk]] = iter,
    ) -> None:
        self._client = client
        self._template = template
        self._timeout_s = timeout_s
        self._watch = watch
        self.messages: list[skills_pb2.Message] = []
        self.last: skills_pb2.GenResp | None = None
        """The last answer, None while there is none or it was ended early."""

    def ask(self, text: str) -> Generator[str, None, None]:
        """Asks, and gives the answer piece by piece.

        Closing the iterator ends the answer; what came of it stays in the conversation. A turn that got no answer at
        all is taken back.

        Raises:
            SaraiError: the call failed.
        """
        self.last = None
        question = skills_pb2.Message(role="user", content=text)
        request = skills_pb2.GenReq()
        request.CopyFrom(self._template)
        request.messages.extend([*self.messages, question])
        answer = skills_pb2.Message(role="assistant")
        try:
            with self._client.GenerateStream(request, timeout=self._timeout_s) as stream:
                for chunk in self._watch(stream):
                    answer.content += chunk.text
                    answer.token_ids.extend(chunk.token_ids)
                    if chunk.HasField("result"):
                        self.last = chunk.result
                        answer = turn_of(chunk.result)
                    if chunk.text:
                        yield chunk.text
        finally:
            if answer.content:
                self.messages += [question, answer]

    def clear(self) -> None:
        """Forgets the conversation. The settings stay."""
        self.messages.clear()
        self.last = None

    def set(self, name: str, value: str) -> None:
        """Sets one of `DEFAULTS`; the value `default` takes it back.

        Raises:
            SettingError: there is no such setting, or the value is none for it.
        """
        _check_name(name)
        if value == "default":
            self._template.ClearField(name)  # type: ignore[arg-type]  # one of DEFAULTS
            return
        try:
            if name == "stop":
                self._template.stop[:] = [unescape(value)]
            else:
                setattr(self._template, name, _READERS.get(name, float)(value))
        except EscapeError as error:
            raise SettingError(str(error)) from None
        except ValueError:
            kind = "a whole number" if name in _WHOLE else "a number"
            raise SettingError(f"{name} must be {kind} in its range, not {value!r}") from None

    def settings(self) -> dict[str, Any]:
        """What is set, by name."""
        fields = {field.name: value for field, value in self._template.ListFields() if field.name in DEFAULTS}
        return {name: list(value) if name == "stop" else value for name, value in fields.items()}

    def in_force(self, *names: str) -> dict[str, str]:
        """What the next answer is asked for with, in words; of all settings, or of those that are named.

        Raises:
            SettingError: there is no such setting.
        """
        given = self.settings()
        return {
            name: f"{_shown(given[name])} (default {DEFAULTS[name]})" if name in given else DEFAULTS[name]
            for name in map(_check_name, names or DEFAULTS)
        }

    def save(self, path: Path) -> None:
        """Writes the conversation as JSON.

        Raises:
            OSError: the file cannot be written.
        """
        turns = [{"role": message.role, "content": message.content} for message in self.messages]
        saved = {"skill": self._client.skill, "settings": self.settings(), "messages": turns}
        path.write_text(json.dumps(saved, ensure_ascii=False, indent=2) + "\n")


def _check_name(name: str) -> str:
    if name not in DEFAULTS:
        raise SettingError(f"there is no setting {name!r}; there are: {', '.join(DEFAULTS)}")
    return name


def _shown(value: Any) -> str:
    match value:
        case list():
            return " ".join(map(_shown, value))
        case str():
            return f'"{escape(value)}"'
        case float():
            return f"{value:g}"  # the wire's floats have seven digits
        case _:
            return str(value)
