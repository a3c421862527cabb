"""Grammars and schemas that llama.cpp must never see, and those that it must."""

from __future__ import annotations

import json

import pytest

from skills.skill_draft.engine.constraint import ConstraintError, check_grammar, grammar_from_schema


@pytest.mark.parametrize(
    ("gbnf", "says"),
    [
        ("root ::= " + "(" * 60_000, "deeper than 64"),
        ("root ::= " + "(" * 65 + '"a"' + ")" * 65, "deeper than 64"),
        ('root ::= "a"{0,100000}', "above 2000"),
        ('root ::= "a"{2001}', "above 2000"),
        ('root ::= "a"{9999999999999999999999}', "above 2000"),
        ("".join(f'r{i} ::= "a"\n' for i in range(600)) + "root ::= r1", "more than 512 rules"),
        ("root ::= r0\n" + "".join(f"r{i} ::= r{i + 1}\n" for i in range(200)) + 'r200 ::= "a"', "chain of more"),
        ("".join(f"r{i} ::= r{i + 1}\n" for i in range(200)) + 'r200 ::= "a"\nroot ::= r0', "chain of more"),
        ('root ::= "' + "a" * 70_000 + '"', "larger than 65536"),
        ('other ::= "a"', "no rule named root"),
        ("root ::= missing", "'missing' without defining"),
        ('root ::= "a\0b"', "NUL"),
    ],
)
def test_a_grammar_beyond_a_limit_is_refused_by_name(gbnf: str, says: str) -> None:
    with pytest.raises(ConstraintError, match=says):
        check_grammar(gbnf)


@pytest.mark.parametrize(
    "gbnf",
    [
        'root ::= "a" root | "b"',
        'root ::= "((((" [(){}]+ # ((((\n',
        'root ::= item{2,30} ("," item)*\nitem ::= [^"\\]\\[]+ "\\""',
        "root ::= " + "(" * 60 + '"a"' + ")" * 60,
        "root ::= r0\n" + "".join(f"r{i} ::= r{i + 1} | r0\n" for i in range(100)) + 'r100 ::= "a"',
    ],
)
def test_an_ordinary_grammar_is_left_alone(gbnf: str) -> None:
    assert check_grammar(gbnf) == gbnf


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ({"type": "integer", "minimum": 1}, "'minimum'"),
        ({"properties": {"a": {"patternProperties": {}}}}, "/properties/a uses 'patternProperties'"),
        ({"type": "string", "pattern": r"^\d+$"}, "pattern"),
        ({"type": "string", "pattern": r"^a\b$"}, "pattern"),
        ({"type": "string", "pattern": "a"}, "pattern"),
        ({"type": "string", "pattern": "^a{0,5000}$"}, "above 2000"),
        ({"type": "string", "maxLength": 5000}, "maxLength"),
        ({"type": "array", "items": {}, "maxItems": -1}, "maxItems"),
        ({"type": "date"}, "not a type"),
        ({"type": "string", "format": "email"}, "email"),
        ({"$ref": "file:///etc/passwd"}, r"\$ref"),
        ({"$ref": "#/$defs/a"}, r"\$ref"),
        ({"$ref": "#/$defs/string", "$defs": {"string": {"type": "integer"}}}, "rename"),
    ],
)
def test_a_schema_with_what_is_not_supported_is_refused_by_name(schema: object, says: str) -> None:
    with pytest.raises(ConstraintError, match=says):
        grammar_from_schema(json.dumps(schema))


def test_a_deep_schema_is_refused() -> None:
    deep: dict[str, object] = {"type": "null"}
    for _ in range(40):
        deep = {"type": "array", "items": deep}
    with pytest.raises(ConstraintError, match="deeper than 32"):
        grammar_from_schema(json.dumps(deep))
    with pytest.raises(ConstraintError, match="nests deeper"):
        grammar_from_schema("[" * 60_000)


def test_a_schema_becomes_a_grammar() -> None:
    schema = {
        "type": "object",
        "properties": {"name": {"$ref": "#/$defs/label"}},
        "$defs": {"label": {"type": "string"}},
    }
    assert "root ::=" in grammar_from_schema(json.dumps(schema))
