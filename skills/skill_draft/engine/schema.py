"""JSON schemas for llguidance: what it would read otherwise than JSON Schema says is put right or refused by name.

llguidance converts the schema; this looks it through before that. The test suite of JSON Schema judges both together.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from llguidance import LLMatcher

from .formats import FORMATS, MAX_HOSTNAME, OTHER_FORMATS
from .numbers import Numbers
from .pattern import to_rust

# Between the parts of JSON: nothing, a space, or a new line with its indentation. Bounded, so that no answer is lost in
# white space without end.
WHITE_SPACE = r" |\n[ \t]{0,64}"
# Without \u0041: llguidance would take a named key that is spelled so for another one, with any value.
ONE_SPELLING = 'nrbtf\\"'
# What JSON writes as \u0041 alone, or llguidance does: those escapes it would leave out without a word.
_WITHOUT_LETTER = re.compile(r"[\x00-\x07\x0b\x0e-\x1f\x7f]")

_MAPS = frozenset(("properties", "patternProperties", "$defs", "definitions", "dependentSchemas"))
_DATA = frozenset(("const", "enum", "default", "examples", "example", "required"))
_DRAFTS = re.compile(r"https?://json-schema\.org/(draft/20(19-09|20-12)|draft-0[4567])/schema#?")
_UNIMPLEMENTED = re.compile(r"Unimplemented keys: \[(.*)\]")

Place = tuple[dict[str, Any], str]


def schema_to_grammar(text: str, *, weaker: bool = False) -> str:
    """The grammar of a schema; with `weaker`, what is not supported is left out. Raises `ValueError`."""
    try:
        schema = json.loads(text)
    except ValueError as error:
        raise ValueError(f"is not JSON: {error}") from error
    if not isinstance(schema, dict):
        raise ValueError("must be a JSON object")  # noqa: TRY004 - it is what the caller sent
    numbers = Numbers()
    options: Any = {"whitespace_pattern": WHITE_SPACE, "lenient": weaker}
    for part, path in places(schema):
        if _has_other_keys(part):
            options["json_allowed_escapes"] = ONE_SPELLING
        if not weaker:
            _check(part, path)
            numbers.add(part, path)
        _translate(part, path)
    numbers.check()
    if "json_allowed_escapes" in options:
        for part, path in places(schema):
            _check_spelling(part, path)
    return LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=options)


def places(schema: dict[str, Any]) -> Iterator[Place]:
    """All schemas in a schema, wherever a reference may lead, with their paths."""
    pending: list[tuple[Any, str]] = [(schema, "")]
    while pending:
        part, path = pending.pop()
        if isinstance(part, list):
            pending += ((sub, f"{path}/{i}") for i, sub in enumerate(part))
        if not isinstance(part, dict):
            continue
        # What is inside comes last, as a caller may change this part.
        yield part, path or "/"
        for key, value in part.items():
            if key in _MAPS and isinstance(value, dict):
                pending += ((sub, f"{path}/{key}/{name}") for name, sub in value.items())
            elif key not in _DATA:
                pending.append((value, f"{path}/{key}"))


def explained(message: str, text: str) -> str:
    """Llguidance's complaint about a schema, with the path of the keyword that it names."""
    if not (found := _UNIMPLEMENTED.search(message)):
        return message
    keywords = set(json.loads(f"[{found[1]}]"))
    for part, path in places(json.loads(text)):
        if used := sorted(keywords & part.keys()):
            return f"{path} uses {used[0]!r}, which is not supported"
    return message


def _has_other_keys(part: dict[str, Any]) -> bool:
    """Whether an object may have keys beside those that it names."""
    names = any(part.get(key) for key in ("properties", "patternProperties", "required"))
    return names and part.get("additionalProperties") is not False


def check_characters(text: str, missing: frozenset[int]) -> None:
    """Refuses a schema that demands a character that a model cannot write.

    Args:
        text: The schema.
        missing: The bytes that none of the model's tokens has.

    Raises:
        ValueError: With the keyword's path and the character.
    """
    missing = frozenset(byte for byte in missing if byte > 0x7F)  # JSON escapes control characters
    for part, path in places(json.loads(text)):
        for keyword, demanded in _demanded(part):
            if missing.isdisjoint(demanded.encode("utf-8", "surrogatepass")):
                continue
            bad = next(c for c in demanded if not missing.isdisjoint(c.encode("utf-8", "surrogatepass")))
            raise ValueError(
                f"{path.rstrip('/')}/{keyword} has {bad!a} (U+{ord(bad):04X}), a character that this model has no "
                "tokens for"
            )


def _check_spelling(part: dict[str, Any], path: str) -> None:
    """Refuses texts of which a part could not be written in their one spelling."""
    for keyword, demanded in _demanded(part):
        if _WITHOUT_LETTER.search(demanded):
            raise ValueError(
                f"{path.rstrip('/')}/{keyword} has a control character, which cannot be written where an object may "
                "have other keys: leave it out, or set additionalProperties to false"
            )


def _demanded(part: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The texts that an answer must have as they are, each with its keyword."""
    for keyword in ("const", "enum", "properties", "required"):
        value = part.get(keyword)
        texts = list(value) if keyword == "properties" and isinstance(value, dict) else value
        yield from ((keyword, text) for text in _strings(texts))


def _strings(value: Any) -> Iterator[str]:
    """All strings in a JSON value, keys included."""
    pending = [value]
    while pending:
        one = pending.pop()
        if isinstance(one, str):
            yield one
        elif isinstance(one, dict):
            pending += [*one, *one.values()]
        elif isinstance(one, list):
            pending += one


def _check(part: dict[str, Any], path: str) -> None:
    """Refuses what llguidance takes and would answer wrongly."""
    if "x-guidance" in part:
        raise ValueError(f"{path} uses 'x-guidance', which is not supported")
    dialect = part.get("$schema")
    if isinstance(dialect, str) and not _DRAFTS.fullmatch(dialect):
        raise ValueError(f"{path}: $schema {dialect[:80]!r} is not a draft of JSON Schema from 4 to 2020-12")
    least, required = part.get("minProperties"), part.get("required")
    named = len(required) if isinstance(required, list) else 0
    if isinstance(least, int) and least > named + 1:
        raise ValueError(f"{path}: minProperties above {named + 1} is not supported, as keys might repeat")
    name = part.get("format")
    if isinstance(name, str) and _may_be_string(part) and name not in FORMATS and name not in OTHER_FORMATS:
        known = ", ".join(sorted({*FORMATS, *OTHER_FORMATS}))
        raise ValueError(f"{path}: format {name[:40]!r} is not supported (only {known})")


def _translate(part: dict[str, Any], path: str) -> None:
    """Says in llguidance's words what it would understand otherwise."""
    if part.get("uniqueItems") is False:
        del part["uniqueItems"]
    try:
        if isinstance(part.get("pattern"), str):
            part["pattern"] = to_rust(part["pattern"])
        if isinstance(part.get("patternProperties"), dict):
            part["patternProperties"] = {to_rust(key): sub for key, sub in part["patternProperties"].items()}
            if "additionalProperties" in part:  # must not be apart from it
                part["additionalProperties"] = part.pop("additionalProperties")
                part["patternProperties"] = part.pop("patternProperties")
    except ValueError as error:
        raise ValueError(f"{path}: the pattern {error}") from error
    name = part.get("format")
    if isinstance(name, str) and name in FORMATS and isinstance(part.get("allOf", []), list):
        del part["format"]
        rule: dict[str, Any] = {"pattern": f"^(?:{FORMATS[name]})$"}
        if name == "hostname":
            rule["maxLength"] = MAX_HOSTNAME
        part["allOf"] = [*part.get("allOf", []), rule]


def _may_be_string(part: dict[str, Any]) -> bool:
    types = part.get("type", "string")
    return "string" in (types if isinstance(types, list) else [types])
