"""Random JSON schemas of the supported keywords.

Those that are made have each keyword independently of the others. Composed ones have what belongs together: `required`
of names that `properties` has, two bounds of which one is the greater, and references.
"""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.internal.conjecture import providers

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


def _part(keywords: dict[str, st.SearchStrategy[Any]], *required: str) -> st.SearchStrategy[Schema]:
    needed = {key: keywords[key] for key in required}
    return st.fixed_dictionaries(needed, optional={key: keywords[key] for key in keywords if key not in needed})


def _typed(name: str, **keywords: st.SearchStrategy[Any]) -> st.SearchStrategy[Schema]:
    return _part({"type": st.just(name), **keywords}, "type", *(key for key in keywords if key in _ALWAYS))


_ALWAYS = ("pattern", "format", "properties", "items", "prefixItems")
_VALUES = st.text(max_size=8) | st.integers(-1000, 1000) | st.booleans() | st.none()
_TYPES = st.lists(st.sampled_from(["string", "integer", "null"]), min_size=1, unique=True)
_SMALL_SCHEMAS = st.one_of(
    _typed("string", minLength=st.integers(0, 4), maxLength=st.integers(4, 9)),
    _typed("string", pattern=st.sampled_from(["^[a-z]{2,5}$", "[0-9]", "^[0-9]{3}-[a-z]+$", "^(yes|no)$"])),
    _typed("string", format=st.sampled_from(["date", "date-time", "email", "ipv4", "uuid"])),
    _typed("integer", minimum=st.integers(-99, 0), maximum=st.integers(0, 99), multipleOf=st.integers(1, 12)),
    _typed("number", exclusiveMinimum=st.integers(-99, 0) | st.floats(-99, 0), maximum=st.floats(1, 99)),
    _part({"type": _TYPES, "maxLength": st.integers(0, 5), "minimum": st.integers(-9, 9)}, "type"),
    _part({"enum": st.lists(_VALUES, min_size=1, max_size=4)}, "enum"),
    _part({"const": _VALUES}, "const"),
)


def made_schemas(levels: int = 3) -> st.SearchStrategy[Schema]:
    """Return schemas of up to this many levels."""
    if levels == 1:
        return _SMALL_SCHEMAS
    inner = made_schemas(levels - 1)
    few = st.lists(inner, min_size=1, max_size=3)
    names = st.text(min_size=1, max_size=6)
    return st.one_of(
        _SMALL_SCHEMAS,
        _typed(
            "object",
            properties=st.dictionaries(names, inner, max_size=3),
            required=st.lists(names, max_size=2, unique=True),
            additionalProperties=st.booleans() | inner,
        ),
        _typed("array", items=inner, minItems=st.integers(0, 1), maxItems=st.integers(1, 3)),
        _typed("array", prefixItems=few, items=st.just(False), minItems=st.integers(0, 1)),
        _part({"anyOf": few}, "anyOf"),
    )
