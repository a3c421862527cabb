"""Answers as objects: from a Python type or a JSON schema to a request, and from the answer to the object."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from core.errors import ConfigError, CutAnswerError, InvalidAnswerError

if TYPE_CHECKING:
    from skills import skills_pb2

T = TypeVar("T")

# For each finish reason that leaves JSON incomplete, the remedy.
_ADVICE = {
    "LENGTH": "give it more max_tokens, or a close_json",
    "TIME_BUDGET": "give it a longer time_budget_ms, or a close_json",
    "CONTEXT_FULL": "send a shorter prompt, or serve the model with a larger context",
    "STOP_STRING": "leave out the stop strings",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape(Generic[T]):
    """What an answer must be. Made by `shape_of`."""

    name: str
    """Its name in errors."""
    json_schema: str
    read: Callable[[str], T]
    """Makes the object from the text of an answer; raises ValueError if that is invalid."""

    def request(self, prompt: str | Sequence[skills_pb2.Message], fields: Mapping[str, Any]) -> skills_pb2.GenReq:
        """Return a request for such an answer.

        Args:
            prompt: What to answer, or the turns of a conversation.
            fields: Other fields of GenReq.

        Raises:
            ConfigError: Another constraint is among the fields.
            ValueError: GenReq has no such field.
        """
        from skills import skills_pb2

        asked = {"prompt": prompt} if isinstance(prompt, str) else {"messages": prompt}
        request = skills_pb2.GenReq(**asked, **fields)
        if other := request.WhichOneof("constraint"):
            raise ConfigError(f"give a schema or {other}, not both")
        request.json_schema = self.json_schema
        return request

    def parse(self, request: skills_pb2.GenReq, response: skills_pb2.GenResp) -> T:
        """Return the object that an answer to the request stands for.

        Raises:
            CutAnswerError: It was cut off, and `close_json` did not bring it to a valid end.
            InvalidAnswerError: It fits the schema, but the type requires more than a schema can express.
        """
        from skills import skills_pb2

        reasons = {value: name.removeprefix("FINISH_REASON_") for name, value in skills_pb2.FinishReason.items()}
        reason = reasons.get(response.finish_reason, "")
        # A number that was cut off is JSON too, so this matters only if a valid end was asked for.
        if reason in _ADVICE and not (request.close_json and _is_json(response.text)):
            cut = f"the answer was cut off ({reason}) after {len(response.token_ids)} tokens"
            raise CutAnswerError(f"{cut}: {_ADVICE[reason]}", response)
        try:
            return self.read(response.text)
        except ValueError as error:
            why = error.__cause__ or error  # Pydantic's own, if there is one
            raise InvalidAnswerError(f"the answer is no valid {self.name}: {error}", response, why) from why


def shape_of(schema: object) -> Shape[Any]:
    """Return what an answer must be to fit a schema.

    Args:
        schema: A JSON schema, as a dictionary or as text; or a type, for which Pydantic must be installed: a model, a
            dataclass, a TypedDict, an Enum, `list[…]`, or any other type that it has a schema for.

    Raises:
        ConfigError: It is none of these, or Pydantic is not installed.
    """
    if isinstance(schema, str):
        try:
            return _json_shape(_read_json(schema))
        except ValueError as error:
            raise ConfigError(f"json_schema is not JSON: {error}") from error
    if isinstance(schema, Mapping):
        return _json_shape(schema)
    try:
        from core.pool.pydantic_types import schema_and_reader
    except ImportError as error:
        raise ConfigError(
            f"the schema {schema!r} is no JSON schema, and for types pydantic 2 is needed, which cannot be imported: "
            f"{error}. `pip install pydantic`, or give the JSON schema as a dictionary or text"
        ) from error
    json_schema, read = schema_and_reader(schema)
    return Shape(name=getattr(schema, "__name__", repr(schema)), json_schema=_compact(json_schema), read=read)


def _json_shape(schema: Any) -> Shape[Any]:
    try:
        return Shape(name="JSON", json_schema=_compact(schema), read=_read_json)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"the schema cannot be written as JSON: {error}") from error


def _compact(schema: Any) -> str:
    """Return a schema without spaces and escapes, as the skill limits its bytes."""
    return json.dumps(schema, ensure_ascii=False, separators=(",", ":"))


def _read_json(text: str) -> Any:
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it nests too deeply") from None


def _is_json(text: str) -> bool:
    try:
        _read_json(text)
    except ValueError:
        return False
    return True
