"""A conversation with a skill, which only grows, so that the skill has all but the end of each prompt in its cache."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from core.cli.images import refused_images
from core.cli.parameters import EscapeError, escape, unescape
from core.errors import ImageFileError, NoImagesError, SaraiError
from core.images import read_image, user_turn
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
"""Fields of GenReq that `/set` can set, and their defaults by the contract."""


_READERS: Mapping[str, Callable[[str], Any]] = {**dict.fromkeys(_WHOLE, int), "system": str}


class SettingError(ValueError):
    """An invalid `/set`."""


class ChatSession:
    """The turns so far, and the settings of the next answer.

    Args:
        client: Client of the skill that answers.
        template: A request without a prompt, with the settings of all answers.
        image_tokens: How many tokens an image is read as at most; None for the default.
        timeout_s: Deadline of an answer, seconds; None for the default.
        watch: Passes on the messages of each answer.
    """

    def __init__(
        self,
        client: SkillClient,
        template: skills_pb2.GenReq,
        *,
        image_tokens: int | None = None,
        timeout_s: float | None = None,
        watch: Callable[[Iterable[skills_pb2.GenChunk]], Iterator[skills_pb2.GenChunk]] = iter,
    ) -> None:
        self._client = client
        self._template = template
        self._image_tokens = image_tokens
        self._images: list[tuple[Path, skills_pb2.Image]] = []  # for the next turn
        self._timeout_s = timeout_s
        self._watch = watch
        self.messages: list[skills_pb2.Message] = []
        self.last: skills_pb2.GenResp | None = None
        """The last answer; None if there is none or it was ended early."""

    def show(self, path: Path) -> None:
        """Show the model an image with the next turn.

        Raises:
            ImageFileError: It cannot be read.
        """
        self._images.append((path, read_image(path, max_tokens=self._image_tokens)))

    def ask(self, text: str) -> Generator[str, None, None]:
        """Ask, and yield the answer piece by piece.

        Closing the iterator ends the answer, and the conversation keeps what came of it. A turn without any answer is
        removed; its images go with the next one, except those that the skill has refused.

        Raises:
            ImageFileError: The skill has refused an image.
            SaraiError: The call failed.
        """
        self.last = None
        question = user_turn(text, images=[image for _, image in self._images])
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
        except NoImagesError:
            self._images.clear()
            raise
        except SaraiError as error:
            for place, why in refused_images(error, turn=len(self.messages)):
                path, _ = self._images.pop(place)
                raise ImageFileError(f"{path}: {why}") from error
            raise
        finally:
            if answer.content:
                self.messages += [question, answer]
                self._images.clear()

    def clear(self) -> None:
        """Forget the conversation, but not the settings."""
        self.messages.clear()
        self._images.clear()
        self.last = None

    def set(self, name: str, value: str) -> None:
        """Set one of `DEFAULTS`; the value `default` resets it.

        Raises:
            SettingError: There is no such setting, or the value is invalid.
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
        """Return the settings that differ from the defaults, by name."""
        fields = {field.name: value for field, value in self._template.ListFields() if field.name in DEFAULTS}
        return {name: list(value) if name == "stop" else value for name, value in fields.items()}

    def in_force(self, *names: str) -> dict[str, str]:
        """Return in words the settings of the next answer; all, or those that are named.

        Raises:
            SettingError: There is no such setting.
        """
        given = self.settings()
        return {
            name: f"{_shown(given[name])} (default {DEFAULTS[name]})" if name in given else DEFAULTS[name]
            for name in map(_check_name, names or DEFAULTS)
        }

    def save(self, path: Path) -> None:
        """Write the conversation as JSON, with the hashes of its images.

        Raises:
            OSError: The file cannot be written.
        """
        turns = list(map(_saved, self.messages))
        saved = {"skill": self._client.skill, "settings": self.settings(), "messages": turns}
        path.write_text(json.dumps(saved, ensure_ascii=False, indent=2) + "\n")


def _saved(turn: skills_pb2.Message) -> dict[str, Any]:
    text = turn.content or "".join(part.text for part in turn.parts)
    images = [hashlib.sha256(part.image.data).hexdigest() for part in turn.parts if part.HasField("image")]
    return {"role": turn.role, "content": text} | ({"images": images} if images else {})


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
            return f"{value:g}"  # floats of the contract have seven digits
        case _:
            return str(value)
