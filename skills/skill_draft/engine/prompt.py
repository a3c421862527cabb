"""Turn a conversation into tokens with the model's own chat template.

User text can never become a control token. Before the template sees it, a mark is inserted that breaks up anything that
reads like one; the control tokens that the template itself wrote are then split off, the mark is removed, and the rest
is tokenized as plain text. Ordinary text gets exactly the tokens that llama.cpp gives the rendered prompt.

The template writes a place for each image, one control token, which the ids of the image's tokens replace.
"""

from __future__ import annotations

import datetime as dt
import json
import re
import time
from typing import Any, NoReturn

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from .binding import Model
from .images import ImageIds
from .messages import Image, Request, Turn
from .text import decode_whole

RENDER_SECONDS = 2.0  # of this thread's CPU time, so that time during which it is suspended does not count
RENDER_CHARS_SPARE = 1 << 16
# The control token that a template writes for an image, between two that enclose it.
IMAGE_PLACE = "<|image_pad|>"
# Unicode's noncharacters: text contains them only on purpose, and then others of them are used.
_NONCHARACTERS = [chr(code) for code in range(0xFDD0, 0xFDF0)]


class PromptError(Exception):
    """The prompt cannot be built; `field` is the path of the request field to blame."""

    def __init__(self, message: str, field: str) -> None:
        super().__init__(message)
        self.field = field


def images_of(request: Request) -> list[Image]:
    """Return the images of a request, in their order."""
    return [part for turn in request.turns for part in turn.parts if isinstance(part, Image)]


def texts_of(turn: Turn) -> list[str]:
    """Return the texts among a turn's parts."""
    return [part for part in turn.parts if isinstance(part, str)]


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def _environment() -> ImmutableSandboxedEnvironment:
    """Return jinja's strictest sandbox: a template is code that comes with the model file."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"], autoescape=False
    )  # fmt: skip
    environment.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False, **options)
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda form: dt.datetime.now(tz=dt.UTC).strftime(form)
    return environment


class PromptBuilder:
    """Builds the prompts of one model."""

    def __init__(self, model: Model) -> None:
        self._vocab = model.vocab
        self._template = None
        if model.chat_template:
            self._template = _environment().from_string(model.chat_template)
        controls = sorted((t for t, id_ in self._vocab.special_texts.items() if id_ in self._vocab.control), key=len)
        alternatives = "|".join(re.escape(text) for text in reversed(controls)) or r"(?!)"
        self._control = re.compile(f"({alternatives})")
        self._control_begins = re.compile(f"(?=(?:{alternatives}))(.)", re.DOTALL)
        self._beginnings = {text[:n] for text in controls for n in range(1, len(text))}
        self._longest = max(map(len, controls), default=0)
        self._place = self._vocab.special_texts.get(IMAGE_PLACE) if IMAGE_PLACE in controls else None
        self._ids = ImageIds()

    @property
    def has_places(self) -> bool:
        """Whether the template writes a place for each image of a conversation."""
        content = [{"type": "image"}, {"type": "text", "text": "a"}, {"type": "image"}]
        try:
            return (
                self._place is not None and self._render([{"role": "user", "content": content}]).count(IMAGE_PLACE) == 2
            )
        except PromptError:
            return False

    def build(self, request: Request) -> list[int]:
        """Return the tokens of a request's prompt.

        Raises:
            PromptError: The template or the tokens of an earlier answer do not permit it.
        """
        if request.raw is not None:
            return self._vocab.tokenize(request.raw, add_special=True, parse_special=True)
        if self._template is None:
            raise PromptError("this model has no chat template: send `prompt` with `raw` set", "raw")
        contents = "".join(turn.content + "".join(texts_of(turn)) for turn in request.turns)
        free = [c for c in _NONCHARACTERS if c not in contents]
        if len(free) < 2:
            raise PromptError("too many different Unicode noncharacters (U+FDD0 to U+FDEF)", "messages")
        mark, place = free[:2]
        messages = [
            {"role": turn.role, "content": f"{place}{i}{place}" if turn.token_ids else self._content(turn, mark)}
            for i, turn in enumerate(request.turns)
        ]
        rendered = self._render(messages, limit=2 * len(contents) + RENDER_CHARS_SPARE)
        tokens: list[int] = []
        for n, part in enumerate(re.split(f"{place}(\\d+){place}", rendered)):
            if n % 2:
                tokens += self._answer_tokens(request.turns[int(part)], int(part))
            else:
                tokens += self._tokenize(part, mark)
        if images := images_of(request):
            tokens = self._with_images(tokens, images)
        if self._vocab.adds_bos and tokens[:1] != [self._vocab.bos]:
            tokens.insert(0, self._vocab.bos)
        return tokens

    def _content(self, turn: Turn, mark: str) -> str | list[dict[str, str]]:
        """Return a turn's content for the template: a text, or a list of its parts if there are images among them."""
        if not any(isinstance(part, Image) for part in turn.parts):
            return self._defuse(turn.content + "".join(texts_of(turn)), mark)
        return [
            {"type": "image"} if isinstance(part, Image) else {"type": "text", "text": self._defuse(part, mark)}
            for part in turn.parts
        ]

    def _with_images(self, tokens: list[int], images: list[Image]) -> list[int]:
        """Return the tokens with those of images in their places."""
        if (places := tokens.count(self._place) if self._place is not None else 0) != len(images):
            message = f"the model's chat template has places for {places} of the {len(images)} images"
            raise PromptError(message, "messages")
        left = iter(images)
        whole: list[int] = []
        for token in tokens:
            whole += self._ids.of(next(left)) if token == self._place else [token]
        return whole

    def _defuse(self, content: str, mark: str) -> str:
        """Break every control token that is spelled out in a text, and the beginning of one at its end."""
        content = self._control_begins.sub(rf"\1{mark}", content)
        tail = content[-self._longest :]
        if any(tail[i:] in self._beginnings for i in range(len(tail))):
            content += mark
        return content

    def _render(self, messages: list[dict[str, Any]], limit: int = RENDER_CHARS_SPARE) -> str:
        assert self._template is not None
        variables: dict[str, Any] = {
            "messages": messages,
            "add_generation_prompt": True,
            "bos_token": self._vocab_text(self._vocab.bos),
            "eos_token": self._vocab_text(self._vocab.eos),
        }
        parts, size, end = [], 0, time.thread_time() + RENDER_SECONDS
        try:
            for part in self._template.generate(variables):
                parts.append(part)
                size += len(part)
                if size > limit or time.thread_time() > end:
                    raise PromptError(f"the chat template wrote over {limit} characters or took too long", "messages")
        except (TemplateError, TypeError, ValueError, KeyError, IndexError) as error:
            raise PromptError(f"the model's chat template refused the conversation: {error}", "messages") from error
        return "".join(parts)

    def _vocab_text(self, token: int) -> str:
        return next((text for text, id_ in self._vocab.special_texts.items() if id_ == token), "")

    def _tokenize(self, rendered: str, mark: str) -> list[int]:
        """Return the tokens of rendered text: the template's control tokens by id, everything else as plain text."""
        parts = self._control.split(rendered)
        for i in range(1, len(parts), 2):
            left, right = self._vocab.strips(self._vocab.special_texts[parts[i]])
            if left:
                parts[i - 1] = parts[i - 1].rstrip()
            if right:
                parts[i + 1] = parts[i + 1].lstrip()
        tokens: list[int] = []
        for i, part in enumerate(parts):
            if i % 2:
                tokens.append(self._vocab.special_texts[part])
            elif plain := part.replace(mark, ""):
                tokens += self._vocab.tokenize(plain, add_special=False, parse_special=False)
        return tokens

    def _answer_tokens(self, turn: Turn, index: int) -> tuple[int, ...]:
        """Return the tokens of an earlier answer; raise `PromptError` unless they spell its content."""
        field = f"messages[{index}].token_ids"
        for token in turn.token_ids:
            if not 0 <= token < self._vocab.n_tokens or token in self._vocab.control:
                raise PromptError(f"{token} is not a text token of this model", field)
        if decode_whole(b"".join(map(self._vocab.piece, turn.token_ids))) != turn.content:
            raise PromptError("the tokens do not spell `content`: leave them out, or send both as answered", field)
        return turn.token_ids
