"""The conversation of a loop, which only grows: turns are appended, and earlier ones never change.

So each call's prompt begins with the whole previous one, which the skill has in its prefix cache.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.images import user_turn
from core.loop.result import Stage
from skills import skills_pb2

if TYPE_CHECKING:
    from collections.abc import Sequence

    from core.loop.config import LoopConfig


def turn_of(response: skills_pb2.GenResp) -> skills_pb2.Message:
    """Return the model's answer as a turn, with the very tokens that it generated if they spell it."""
    turn = skills_pb2.Message(role="assistant", content=response.text)
    # If a stop string ended it, the tokens spell more than the text.
    if response.finish_reason != skills_pb2.FINISH_REASON_STOP_STRING:
        turn.token_ids.extend(response.token_ids)
    return turn


class Conversation:
    """The turns so far.

    Args:
        config: The settings of the requests.
        prompt: The first turn.
        images: What it shows before its text.
        seed: Seed of all requests, None for none.
        json_schema: Schema that drafts and corrections must fit, None for none.
    """

    def __init__(
        self,
        config: LoopConfig,
        prompt: str,
        *,
        images: Sequence[skills_pb2.Image] = (),
        seed: int | None,
        json_schema: str | None,
    ) -> None:
        self._config = config
        self._json_schema = json_schema
        self._seed = seed
        self._messages: list[skills_pb2.Message] = []
        if config.system:
            self._messages.append(skills_pb2.Message(role="system", content=config.system))
        self.ask(prompt, images)

    def ask(self, text: str, images: Sequence[skills_pb2.Image] = ()) -> None:
        """Add a turn of the user."""
        self._messages.append(user_turn(text, images=images))

    def answered(self, response: skills_pb2.GenResp) -> None:
        """Add the model's answer as a turn."""
        self._messages.append(turn_of(response))

    def request(self, stage: Stage, *, time_budget_ms: int = 0) -> skills_pb2.GenReq:
        """Return the request for the next answer.

        Args:
            stage: What to generate; a reflection is short, and free of grammars, schemas and stop strings.
            time_budget_ms: When to return the answer so far, milliseconds; 0 for no budget.
        """
        config = self._config
        reflecting = stage is Stage.REFLECTION
        request = skills_pb2.GenReq(
            messages=self._messages,
            max_tokens=config.reflection_max_tokens if reflecting else config.max_tokens,
            temperature=config.temperature,
            stop=() if reflecting else config.stop,
            top_p=config.top_p,
            top_k=config.top_k,
            min_p=config.min_p,
            seed=self._seed,
            repeat_penalty=config.repeat_penalty,
            presence_penalty=config.presence_penalty,
            frequency_penalty=config.frequency_penalty,
            time_budget_ms=time_budget_ms,
            priority=skills_pb2.PRIORITY_BATCH if config.batch else skills_pb2.PRIORITY_UNSPECIFIED,
            lookup=config.lookup,
            progress=config.progress,
        )
        if not reflecting:
            self._constrain(request)
        return request

    def _constrain(self, request: skills_pb2.GenReq) -> None:
        config = self._config
        request.close_json, request.allow_weaker_schema = config.close_json, config.allow_weaker_schema
        if config.grammar is not None:
            request.grammar = config.grammar
        if config.regex is not None:
            request.regex = config.regex
        if self._json_schema is not None:
            request.json_schema = self._json_schema
