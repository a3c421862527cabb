"""Accepted constraints, and the answers that they allow; refused constraints, and why."""

from __future__ import annotations

import json
from typing import Any

import pytest

from skills.skill_draft.engine.messages import ConstraintKind
from tests.matching import matchers, model, of_schema, refusal, start, writes

GRAMMAR, SCHEMA = ConstraintKind.GRAMMAR, ConstraintKind.JSON_SCHEMA
REGEX, LARK = ConstraintKind.REGEX, ConstraintKind.LARK


@pytest.mark.parametrize(
    ("gbnf", "yes", "no"),
    [
        ('root ::= "a" root | "b"', ["b", "aaab"], ["a", "ba", ""]),
        ('root ::= root "a" | "b"', ["b", "baa"], ["a"]),
        ('root ::= word "ing"\nword ::= [a-z]+', ["playing", "inging"], ["ing", "play"]),
        ('root ::= word "ing" | "(" root ")"\nword ::= [a-z]+', ["playing", "((singing))"], ["(ing)", "(play)"]),
        ('root ::= ("a" | "ab") "bc" # "or"\n', ["abc", "abbc"], ["ac"]),
        ('root ::= ("a" | "ab") "bc" | "[" root "]"', ["abc", "[abbc]"], ["[abc"]),
        ('root ::= "((((" [(){}]+', ["((((}{"], ["(((("]),
        ('root ::= item{2,3} ("," item)*\nitem ::= [^"\\]\\[]+ "\\""', ['a"b"', 'a"b"c",d"'], ['a"', 'a"["']),
        (
            'root ::= "\\u0041\\x41\\U00012345\\xe4" [\\u0041-\\u0043\\x2d\\[\\]]',
            ["AA\U00012345äB", "AA\U00012345ä]"],
            [],
        ),
        ("root ::= [a&&b] [+--] [^^]", ["&,a", "b-c"], ["ba^", "b.a"]),
        ("root ::= [a^/.] [^a]", ["^\n", "/b", ".."], ["ca", "aa"]),
        ('root ::= . "\\n"', ["\n\n", "é\n", "🙂\n"], ["\n"]),
        ('root ::= (("a"+)*)? "b"?', ["", "aab"], ["bb"]),
        ('root ::= foo-Bar foo_bar 1x\nfoo-Bar ::= "x"\nfoo_bar ::= "y"\n1x ::= "z"', ["xyz"], ["xxz"]),
        ('root ::= start\nstart ::= "<|im_end|>"', ["<|im_end|>"], [""]),
        ("root ::= " + "(" * 20 + '"a"' + ")" * 20, ["a"], [""]),
        ('root ::= "a"{0,9999}', ["", "aaaa"], ["b"]),
    ],
)
def test_a_grammar_lets_through_what_it_describes(gbnf: str, yes: list[str], no: list[str]) -> None:
    matcher = start(GRAMMAR, gbnf)
    assert [text for text in yes if not writes(matcher, text)] == []
    assert [text for text in no if writes(matcher, text)] == []


@pytest.mark.parametrize(
    ("kind", "text", "says"),
    [
        (GRAMMAR, "root ::= " + "(" * 20_000 + '"a"' + ")" * 20_000, "nest"),
        (GRAMMAR, 'root ::= "' + "a" * 70_000 + '"', "larger than 65536"),
        (GRAMMAR, 'other ::= "a"', "no rule named root"),
        (GRAMMAR, "root ::= missing", "uses 'missing', which is not defined"),
        (GRAMMAR, 'root ::= "a"\nroot ::= "b"', "defines the rule 'root' twice"),
        (GRAMMAR, "this is no grammar", "cannot be read at 'this is no grammar' in line 1"),
        (GRAMMAR, 'root ::= "unclosed', "cannot be read"),
        (GRAMMAR, 'root ::= "\\q"', "escape"),
        (GRAMMAR, "root ::= [\\UFFFFFFFF]", "no character"),
        (GRAMMAR, "root ::= [z-a]", "backwards"),
        (GRAMMAR, 'root ::= "a" | )', "expecting rule, token or statement"),
        (GRAMMAR, "root ::= r0\n" + "".join(f"r{i} ::= r{i + 1}\n" for i in range(4000)) + 'r4000 ::= "a"', "nests"),
        (LARK, "start: " + "(" * 20_000 + '"a"' + ")" * 20_000, "nest"),
        (LARK, "start: r0\n" + "".join(f"r{i}: r{i + 1}\n" for i in range(4000)) + 'r4000: "a"', "nests too deeply"),
        (LARK, "start: <|im_end|>", "control tokens"),
        (LARK, "start: <[5]>", "control tokens"),
        (LARK, "start: a\na[max_tokens=3]: /.*/", "'max_tokens'"),
        (LARK, 'start: a\na[stop="x"]: /.*/', "'stop'"),
        (LARK, '{"grammars": [{"json_schema": {}}]}', ""),
        (REGEX, "(" * 20_000 + "a" + ")" * 20_000, "nest"),
        (REGEX, "(?=a)b", "look-around"),
        (REGEX, "a{2", "unclosed counted repetition"),
    ],
)  # fmt: skip
def test_what_cannot_be_had_is_refused_with_the_reason(kind: ConstraintKind, text: str, says: str) -> None:
    message = refusal(kind, text)
    assert message
    assert says in message
    assert len(message) <= 300


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ({"properties": {"a": {"not": {}}}}, "/properties/a uses 'not'"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"uniqueItems": True}}}, "/$defs/a uses 'uniqueItems'"),
        ({"items": [{"if": {}, "then": {}}]}, "/items/0 uses 'if'"),
        ({"anyOf": [{"format": "iri"}]}, "/anyOf/0: format 'iri'"),
        ({"$ref": "file:///etc/passwd"}, "file:///etc/passwd"),
        ({"$ref": "https://example.org/schema.json"}, "https://example.org/schema.json"),
        ({"$ref": "#/$defs/a"}, "/$defs/a"),
        ({"oneOf": [{"type": "integer"}, {"minimum": 2}]}, "oneOf"),
        ({"const": 2**53 + 1}, "2^53"),
        ({"type": "object", "minProperties": 2}, "minProperties"),
        ({"$schema": "http://example.org/mine"}, "$schema"),
        ({"x-guidance": {"lenient": True}, "not": {}}, "x-guidance"),
        ({"type": "string", "pattern": r"^a\b$"}, r"\b"),
        ({"type": "string", "pattern": r"(?=a)b"}, "look-around"),
        ({"type": "date"}, "date"),
        ({"type": "array", "items": {}, "maxItems": -1}, "maxItems"),
        ({"allOf": [{"multipleOf": 65536}, {"multipleOf": 65537}]}, "/allOf/0: multipleOf is not supported"),
        ({"items": {"exclusiveMinimum": 0, "maximum": 0.5}}, "/items: exclusiveMinimum 0"),
        ({"allOf": [{"exclusiveMaximum": 3}, {"minimum": 2.5}]}, "exclusiveMaximum 3"),
        (False, "JSON object"),
    ],
)
def test_a_schema_with_what_is_not_supported_is_refused_by_name(schema: object, says: str) -> None:
    assert says in refusal(SCHEMA, json.dumps(schema))


@pytest.mark.parametrize("text", ["[" * 60_000, '{"items":' * 6000 + "{}" + "}" * 6000, "nonsense", '{"a": NaN}', ""])
def test_what_is_no_schema_is_refused(text: str) -> None:
    assert refusal(SCHEMA, text)


def test_a_weaker_schema_is_an_error_unless_it_is_allowed() -> None:
    schema = {"type": "array", "items": {"type": "integer"}, "uniqueItems": True}
    assert "uniqueItems" in refusal(SCHEMA, json.dumps(schema))
    weaker = of_schema(schema, allow_weaker=True)
    assert writes(weaker, "[1,1]")
    assert not writes(weaker, '["a"]')


ODD = 'quote " backslash \\ line\nend tab\t nul\0 é 🙂 </script> \u2028'


@pytest.mark.parametrize(
    ("schema", "yes", "no"),
    [
        ({"const": ODD}, [ODD], [ODD[:-1], ""]),
        ({"enum": [ODD, "x"]}, [ODD, "x"], ["y"]),
        ({"type": ["string", "null"], "enum": ["a", None]}, ["a", None], ["b", 1]),
        ({"type": "string", "maxLength": 1000}, ["x" * 1000, "🙂" * 1000], ["x" * 1001]),
        ({"type": "string", "pattern": r"^\d+\.\d$"}, ["12.5"], ["12,5", "a12.5"]),
        ({"type": "string", "pattern": "a.c"}, ["xabcx"], ["a\rc", "a\nc", "ac"]),
        ({"type": "string", "pattern": r"^[a[\]&&b]\S$"}, ["[x", "&x", "]x"], ["a ", "a\ufeff"]),
        ({"pattern": r"^(?!^[-+.]*$)[+-]?0*\d*\.?\d*$"}, ["0.5", "-.5", "+00", "1."], ["", ".", "-", "+.", "1.2.3"]),
        ({"type": "array", "items": {}}, [[], [1, "a", {"b": [None]}]], [{}]),
        ({"description": "anything"}, [1, "a", None, {"a": []}], []),
        ({"properties": {"a": {"type": "integer"}}, "oneOf": [{"required": ["a"]}]}, [{"a": 1}], [{"a": "x"}, {}]),
        ({"type": "object", "additionalProperties": {"type": "integer"}, "minProperties": 1}, [{"x": 1}], [{}]),
        (
            {"additionalProperties": False, "$ref": "#/$defs/o", "patternProperties": {"^c": {}}, "$defs": {"o": {}}},
            [{"c": 1}, {}], [{"d": 1}],
        ),
        ({"type": "integer", "minimum": -5, "maximum": 130}, [-5, 0, 130], [-6, 131, 1.5]),
    ],
)  # fmt: skip
def test_a_schema_lets_through_what_fits_it(schema: Any, yes: list[Any], no: list[Any]) -> None:
    matcher = of_schema(schema)
    texts = {json.dumps(value, ensure_ascii=False, indent=indent) for value in yes for indent in (None, 1, 4, "\t")}
    assert [text for text in texts if not writes(matcher, text)] == []
    assert [value for value in no if writes(matcher, json.dumps(value, ensure_ascii=False))] == []


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {"a": {"const": 1}}},
        {"patternProperties": {"^a": {"const": 1}}},
        {"allOf": [{"properties": {"a": {"const": 1}}}, {"additionalProperties": {"type": "integer"}}]},
        {"required": ["a"], "minProperties": 2, "additionalProperties": {"const": 1}},
    ],
)
def test_a_named_key_has_one_spelling(schema: Any) -> None:
    """With a second spelling, the model could write the key again as an unnamed one, with any value."""
    matcher = of_schema({"type": "object", **schema})
    assert writes(matcher, '{"a": 1, "b": 1}')
    assert not writes(matcher, '{"\\u0061": 2}')
    assert not writes(matcher, '{"a": 1, "\\u0061": 1}')


def test_white_space_has_an_end() -> None:
    matcher = of_schema({"type": "object"})
    assert writes(matcher, "{\n" + " " * 64 + "}")
    assert not writes(matcher, "{\n" + " " * 65 + "}")
    assert not writes(matcher, "{\n\n}")
    assert not writes(matcher, " {}")


def test_any_object_a_regular_expression_and_lark() -> None:
    anything = start(ConstraintKind.JSON_OBJECT, "")
    assert writes(anything, '{"a": [1, {"b": null}]}')
    assert not writes(anything, "[1]")
    plate = start(REGEX, "[A-Z]{1,3}-[0-9]+")
    assert writes(plate, "AB-123")
    assert not writes(plate, "xAB-123")
    assert not writes(plate, "AB-123x")
    call = start(LARK, 'start: "call " NAME "(" %json {"type": "integer"} ")"\nNAME: /[a-z]+/')
    assert writes(call, "call f(12)")
    assert not writes(call, 'call f("a")')


def test_no_control_token_can_be_written() -> None:
    vocab = model().vocab
    allowed = start(REGEX, r"(?s:.*)").allowed()
    assert not allowed[sorted(vocab.control - vocab.eog)].any()
    assert allowed.sum() > 600


def test_a_grammar_is_compiled_once() -> None:
    text = 'root ::= "compiled once"'
    start(GRAMMAR, text)
    kept = len(matchers()._kept)
    start(GRAMMAR, text)
    assert len(matchers()._kept) == kept
    for i in range(40):
        refusal(GRAMMAR, f'root ::= "{i}')
    assert len(matchers()._kept) == 32
