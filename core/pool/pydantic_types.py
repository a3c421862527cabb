"""JSON schemas of Python types, by Pydantic. Imported only if a type is given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue

from core.errors import ConfigError


class _ClosedObjects(GenerateJsonSchema):
    """Objects have no keys but their fields, unless the type says otherwise (`extra="allow"`).

    Pydantic ignores unknown keys, and its schemas allow them. Small models exploit that, and invent keys until their
    tokens are used up.
    """

    def model_schema(self, schema: Any) -> JsonSchemaValue:
        return _close(super().model_schema(schema))

    def dataclass_schema(self, schema: Any) -> JsonSchemaValue:
        return _close(super().dataclass_schema(schema))

    def typed_dict_schema(self, schema: Any) -> JsonSchemaValue:
        return _close(super().typed_dict_schema(schema))


def _close(schema: JsonSchemaValue) -> JsonSchemaValue:
    if schema.get("type") == "object":
        schema.setdefault("additionalProperties", False)
    return schema


def schema_and_reader(type_: Any) -> tuple[JsonSchemaValue, Callable[[str], Any]]:
    """Return the JSON schema of a type, and a function that makes its objects from JSON.

    Raises:
        ConfigError: Pydantic has no JSON schema for it.
    """
    try:
        adapter = TypeAdapter[Any](type_)
        schema = adapter.json_schema(schema_generator=_ClosedObjects)
    except PydanticUserError as error:
        raise ConfigError(f"there is no JSON schema for {type_!r}: {error.message}") from error

    def read(text: str) -> Any:
        try:
            return adapter.validate_json(text)
        except ValidationError as error:
            wrong = (f"{'.'.join(map(str, e['loc']))}: {e['msg']}".removeprefix(": ") for e in error.errors())
            raise ValueError("; ".join(wrong)) from error

    return schema, read
