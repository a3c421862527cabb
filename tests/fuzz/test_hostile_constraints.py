"""Whatever a caller sends as a constraint, the engine's process survives, and no request waits long."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skills.skill_draft.engine.constraint import ConstraintError
from skills.skill_draft.engine.messages import ConstraintKind
from tests.matching import refusal, start

KINDS = [kind for kind in ConstraintKind if kind is not ConstraintKind.JSON_OBJECT]


def nested(inner: Any, depth: int, **wrap: Any) -> Any:
    for _ in range(depth):
        inner = {key: [inner] if value == [] else inner for key, value in wrap.items()}
    return inner


def chain(n: int, **last: Any) -> Any:
    definitions = {f"d{i}": {"allOf": 2 * [{"$ref": f"#/$defs/d{i + 1}"}]} for i in range(n)}
    return {"$ref": "#/$defs/d0", "$defs": {**definitions, f"d{n}": last}}


SCHEMAS: list[Any] = [
    nested({}, 90, items=None),
    nested({}, 500, items=None),
    nested({}, 60, allOf=[]),
    chain(40, type="object", properties={"a": {}}),
    {"$ref": "#"},
    {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}},
    {"allOf": [{"$ref": "#"}]},
    {"allOf": [{"anyOf": [{"properties": {f"{c}{i}": {"const": 1}}} for c in "ab"]} for i in range(40)]},
    {"type": "string", "minLength": 10**9},
    {"type": "array", "minItems": 10**9},
    {"type": "array", "maxItems": 10**9, "items": {"type": "array", "maxItems": 10**9}},
    {"type": "object", "maxProperties": 10**9},
    {"type": "string", "pattern": "(a|b)*a(a|b){200}"},
    {"type": "string", "pattern": "((((a{1,100}){1,100}){1,100}){1,100}){1,100}"},
    {"type": "string", "pattern": "^(\\\\p{L}{1,1000}){1,1000}$"},
    {"properties": {f"p{i}": {"type": "string"} for i in range(2000)}, "additionalProperties": False},
    {"enum": [f"value {i}" for i in range(4000)]},
    {"patternProperties": {f"^(a|b)*a(a|b){{{12 + i}}}c{i}": {} for i in range(10)}},
    {"multipleOf": 4294967291, "maximum": 10**15},
    {"anyOf": [{"multipleOf": n} for n in range(1, 2000)]},
    {"anyOf": [{"exclusiveMinimum": n, "maximum": n + 0.5} for n in range(1000)]},
]
GRAMMARS = [
    (ConstraintKind.GRAMMAR, "root ::= " + "(" * 20_000),
    (ConstraintKind.GRAMMAR, "root ::= r0\n" + "".join(f"r{i} ::= r{i + 1}\n" for i in range(4000)) + 'r4000 ::= "a"'),
    (ConstraintKind.GRAMMAR, 'root ::= (("a"{9999}){9999}){9999}'),
    (ConstraintKind.GRAMMAR, 'root ::= root root | "a" | ""'),
    (ConstraintKind.GRAMMAR, "root ::= root"),
    (ConstraintKind.LARK, "start: r0\n" + "".join(f"r{i}: r{i + 1}\n" for i in range(4000)) + 'r4000: "a"'),
    (ConstraintKind.LARK, "start: A\nA: " + " & ".join(f"/(a|b)*a(a|b){{{i}}}c/" for i in range(2, 40))),
    (ConstraintKind.LARK, 'start: "a" start'),
    (ConstraintKind.LARK, "start: start start | "),
    (ConstraintKind.REGEX, "(a|b)*a(a|b){25}"),
    (ConstraintKind.REGEX, "((a{1,1000}){1,1000}){1,1000}"),
    (ConstraintKind.REGEX, r"(\p{L}|\p{N}){1,5000}"),
    (ConstraintKind.REGEX, "a{30000}"),
]


def outcome(kind: ConstraintKind, text: str) -> str:
    """Begin an answer and write some of it; return the error if a limit refuses it, otherwise an empty text."""
    try:
        matcher = start(kind, text)
        for _ in range(30):
            if matcher.is_complete:
                break
            matcher.forced()
            tokens = matcher.allowed().nonzero()[0]
            matcher.accept(int(tokens[len(tokens) // 2 - 1]))
    except ConstraintError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("kind", "text"), [*((ConstraintKind.JSON_SCHEMA, json.dumps(schema)) for schema in SCHEMAS), *GRAMMARS]
)
def test_a_costly_constraint_is_refused_or_goes_on(kind: ConstraintKind, text: str) -> None:
    begin = time.process_time()
    message = outcome(kind, text)
    assert time.process_time() - begin < 3, message
    assert len(message) <= 300


SIGNS = [*"()[]{}|*+?.,:\"\\^$-#/<>&~='\n\0 é🙂", "{1,3}", "\\u0041", "\\x", "[^", "//", "(?:", "(?i)", "\\p{L}"]
NAMES = ["root", "start", " ::= ", ": ", "a", "B", "0", "%json", "%regex", "%ignore", "%llguidance {}", "%import"]
PIECES = st.sampled_from([*SIGNS, *NAMES])
KEYWORDS = [
    *("type", "properties", "items", "prefixItems", "anyOf", "oneOf", "allOf", "not", "$ref", "$defs", "$id", "enum"),
    *("const", "required", "pattern", "format", "minimum", "maximum", "minLength", "maxItems", "multipleOf"),
    *("patternProperties", "additionalProperties", "minProperties"),
]
LEAVES = st.none() | st.booleans() | st.integers(-3, 300) | st.floats(-5, 5) | st.sampled_from(["string", "#", "a("])
JSON = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYWORDS), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(kind=st.sampled_from(KINDS), pieces=st.lists(PIECES, max_size=25))
def test_any_text_is_taken_or_refused(kind: ConstraintKind, pieces: list[str]) -> None:
    outcome(kind, {ConstraintKind.GRAMMAR: "root ::= ", ConstraintKind.LARK: "start: "}.get(kind, "") + "".join(pieces))


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(schema=JSON)
def test_any_json_is_taken_as_a_schema_or_refused(schema: Any) -> None:
    outcome(ConstraintKind.JSON_SCHEMA, json.dumps(schema))


def test_what_takes_too_long_to_compile_is_refused_with_that_reason() -> None:
    assert "to compile" in refusal(ConstraintKind.JSON_SCHEMA, '{"multipleOf": 4294967291, "maximum": 1e15}')


def test_after_all_that_others_are_still_served() -> None:
    assert refusal(ConstraintKind.GRAMMAR, 'root ::= "a"') == ""
