"""Random JSON schemas of the supported keywords.

Most are documents of a schema of schemas, made by hypothesis-jsonschema. It knows no references, no `required` of names
that `properties` has, and no two bounds of which one is the greater: schemas with those are put together here.
"""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.internal.conjecture import providers
from hypothesis_jsonschema import from_schema

# Hypothesis also draws constants that it finds in the modules of this tree that are loaded: the same seed would give
# other schemas whenever other tests run along or any file changes.
assert hasattr(providers, "is_local_module_file"), "hypothesis has another name for it now"
providers.is_local_module_file = lambda _path: False

Schema = dict[str, Any]

_FORMATS = ["date", "time", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "uri", "uuid"]
_PATTERNS = ["^[a-z]{2,5}$", "[0-9]", r"^\d{3}-\w+$", "^(yes|no)$", r"^\S+$", "^$|^a.c$"]
_DATA = st.text(max_size=8) | st.integers(-1000, 1000) | st.sampled_from([None, True, False, 0.5, -1.25])
_KEYS = st.text(min_size=1, max_size=12)


def _ordered(low: int, high: int) -> st.SearchStrategy[tuple[int, int]]:
    return st.tuples(st.integers(low, high), st.integers(low, high)).map(lambda pair: (min(pair), max(pair)))


def _scalars() -> st.SearchStrategy[Schema]:
    lengths = _ordered(0, 9).map(lambda n: {"type": "string", "minLength": n[0], "maxLength": n[1]})
    bounds = _ordered(-99, 99).map(lambda n: {"type": "integer", "minimum": n[0], "maximum": n[1]})
    numbers = _ordered(-99, 99).map(lambda n: {"type": "number", "exclusiveMinimum": n[0] - 1.5, "maximum": n[1] / 4})
    return st.one_of(
        lengths, bounds, numbers,
        st.sampled_from(_FORMATS).map(lambda name: {"type": "string", "format": name}),
        st.sampled_from(_PATTERNS).map(lambda pattern: {"type": "string", "pattern": pattern}),
        st.integers(1, 12).map(lambda n: {"type": "integer", "multipleOf": n}),
        st.sampled_from([{"type": "boolean"}, {"type": "null"}, {"type": ["string", "null"], "maxLength": 5}]),
        st.lists(_DATA, min_size=1, max_size=4).map(lambda values: {"enum": values}),
        _DATA.map(lambda value: {"const": value}),
    )  # fmt: skip


def _object(parts: dict[str, Schema], optional: bool) -> Schema:
    names = list(parts)
    return {
        "type": "object",
        "properties": parts,
        "required": names[: len(names) // 2] if optional else names,
        "additionalProperties": False,
    }


def _array(sizes: tuple[int, int], items: Schema) -> Schema:
    return {"type": "array", "minItems": sizes[0], "maxItems": sizes[1], "items": items}


def _larger(inner: st.SearchStrategy[Schema]) -> st.SearchStrategy[Schema]:
    few = st.lists(inner, min_size=1, max_size=3)
    return st.one_of(
        st.builds(_object, st.dictionaries(_KEYS, inner, min_size=1, max_size=3), st.booleans()),
        st.builds(_array, _ordered(0, 3), inner),
        few.map(lambda parts: {"type": "array", "prefixItems": parts, "items": False, "minItems": len(parts)}),
        few.map(lambda parts: {"anyOf": parts}),
        inner.map(lambda part: {"$ref": "#/$defs/part", "$defs": {"part": part}} if "$defs" not in str(part) else part),
    )  # fmt: skip


def composed_schemas() -> st.SearchStrategy[Schema]:
    """Return schemas with subschemas. Only the top level can have a reference, as its definition is there."""
    nested = st.recursive(_scalars(), _larger, max_leaves=5)
    return nested.filter(lambda schema: "$defs" not in str(schema) or "$defs" in schema)


def _part(keywords: Schema, *required: str) -> Schema:
    return {"type": "object", "properties": keywords, "required": required, "additionalProperties": False}


def _typed(name: str, **keywords: Schema) -> Schema:
    return _part({"type": {"const": name}, **keywords}, "type", *(key for key in keywords if key in _ALWAYS))


def _number(low: int, high: int, kind: str = "integer") -> Schema:
    return {"type": kind, "minimum": low, "maximum": high}


_ALWAYS = ("pattern", "format", "properties", "items", "prefixItems")
_VALUE = {"type": ["string", "integer", "boolean", "null"], "maxLength": 8, "minimum": -1000, "maximum": 1000}
_NAME = {"type": "string", "minLength": 1, "maxLength": 6}
_TYPES = {"type": "array", "items": {"enum": ["string", "integer", "null"]}, "minItems": 1, "uniqueItems": True}
_SCALARS = [
    _typed("string", minLength=_number(0, 4), maxLength=_number(4, 9)),
    _typed("string", pattern={"enum": ["^[a-z]{2,5}$", "[0-9]", "^[0-9]{3}-[a-z]+$", "^(yes|no)$"]}),
    _typed("string", format={"enum": ["date", "date-time", "email", "ipv4", "uuid"]}),
    _typed("integer", minimum=_number(-99, 0), maximum=_number(0, 99), multipleOf=_number(1, 12)),
    _typed("number", exclusiveMinimum=_number(-99, 0, "number"), maximum=_number(1, 99, "number")),
    _part({"type": _TYPES, "maxLength": _number(0, 5), "minimum": _number(-9, 9)}, "type"),
    _part({"enum": {"type": "array", "items": _VALUE, "minItems": 1, "maxItems": 4}}, "enum"),
    _part({"const": _VALUE}, "const"),
]


def _schema_of_schemas(depth: int) -> Schema:
    if not depth:
        return {"anyOf": _SCALARS}
    inner = _schema_of_schemas(depth - 1)
    parts = {"type": "object", "propertyNames": _NAME, "additionalProperties": inner, "maxProperties": 3}
    names = {"type": "array", "items": _NAME, "maxItems": 2, "uniqueItems": True}
    few = {"type": "array", "items": inner, "minItems": 1, "maxItems": 3}
    others = {"anyOf": [{"type": "boolean"}, inner]}
    return {
        "anyOf": [
            *_SCALARS,
            _typed("object", properties=parts, required=names, additionalProperties=others),
            _typed("array", items=inner, minItems=_number(0, 1), maxItems=_number(1, 3)),
            _typed("array", prefixItems=few, items={"const": False}, minItems=_number(0, 1)),
            _part({"anyOf": few}, "anyOf"),
        ]
    }


def made_schemas() -> st.SearchStrategy[Schema]:
    """Return schemas of up to three levels."""
    schemas: st.SearchStrategy[Any] = from_schema(_schema_of_schemas(2))
    return schemas
