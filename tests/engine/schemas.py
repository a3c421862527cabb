"""JSON schemas at random, of the keywords that are taken."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

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


def random_schemas() -> st.SearchStrategy[Schema]:
    """Schemas of some levels. What is referred to lies at the top, so that is where such a part can be."""
    nested = st.recursive(_scalars(), _larger, max_leaves=5)
    return nested.filter(lambda schema: "$defs" not in str(schema) or "$defs" in schema)
