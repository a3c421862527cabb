"""Prepare JSON schemas for llguidance: correct or refuse what it reads differently from the standard.

llguidance converts the schema afterwards; the JSON Schema test suite is run against both together.
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

# Between JSON tokens: nothing, a space, or a new line with indentation. Bounded, so that no answer gets lost in endless
# white space.
WHITE_SPACE = r" |\n[ \t]{0,64}"
# Escapes without \u0041: llguidance would take a named key in that spelling for an additional one, with any value.
ONE_SPELLING = 'nrbtf\\"'
# Characters that JSON or llguidance can only write as \u0041: without that escape, llguidance silently drops them.
_WITHOUT_LETTER = re.compile(r"[\x00-\x07\x0b\x0e-\x1f\x7f]")

_MAPS = frozenset(("properties", "patternProperties", "$defs", "definitions", "dependentSchemas"))
_DATA = frozenset(("const", "enum", "default", "examples", "example", "required"))
_DRAFTS = re.compile(r"https?://json-schema\.org/(draft/20(19-09|20-12)|draft-0[4567])/schema#?")
_UNIMPLEMENTED = re.compile(r"Unimplemented keys: \[(.*)\]")

Place = tuple[dict[str, Any], str]


def schema_to_grammar(text: str, *, weaker: bool = False) -> str:
    """Return the grammar of a schema.

    Args:
        text: The schema as JSON.
        weaker: Whether to ignore what is not supported.

    Raises:
        ValueError: The schema is malformed or not supported; the message includes the path of the keyword.
    """
    try:
        schema = json.loads(text)
    except ValueError as error:
        raise ValueError(f"is not JSON: {error}") from error
    if not isinstance(schema, dict):
        raise ValueError("must be a JSON object")  # noqa: TRY004 - the caller's data, not a wrong type in code
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
    """Yield a schema and all its subschemas, wherever a reference may lead, with their paths."""
    pending: list[tuple[Any, str]] = [(schema, "")]
    while pending:
        part, path = pending.pop()
        if isinstance(part, list):
            pending += ((sub, f"{path}/{i}") for i, sub in enumerate(part))
        if not isinstance(part, dict):
            continue
        # Yield before descending, as the caller may change this part.
        yield part, path or "/"
        for key, value in part.items():
            if key in _MAPS and isinstance(value, dict):
                pending += ((sub, f"{path}/{key}/{name}") for name, sub in value.items())
            elif key not in _DATA:
                pending.append((value, f"{path}/{key}"))


def explained(message: str, text: str) -> str:
    """Add the path of the unsupported keyword to llguidance's message about a schema."""
    if not (found := _UNIMPLEMENTED.search(message)):
        return message
    keywords = set(json.loads(f"[{found[1]}]"))
    for part, path in places(json.loads(text)):
        if used := sorted(keywords & part.keys()):
            return f"{path} uses {used[0]!r}, which is not supported"
    return message


def _has_other_keys(part: dict[str, Any]) -> bool:
    """Return whether an object may have keys in addition to those that it names."""
    names = any(part.get(key) for key in ("properties", "patternProperties", "required"))
    return names and part.get("additionalProperties") is not False


def check_characters(text: str, missing: frozenset[int]) -> None:
    """Refuse a schema that requires a character that a model cannot write.

    Args:
        text: The schema as JSON.
        missing: The bytes that none of the model's tokens contains.

    Raises:
        ValueError: The message has the keyword's path and the character.
    """
    missing = frozenset(byte for byte in missing if byte > 0x7F)  # JSON escapes control characters
    for part, path in places(json.loads(text)):
        for keyword, demanded in _demanded(part):
            if missing.isdisjoint(demanded.encode("utf-8", "surrogatepass")):
                continue
            bad = next(c for c in demanded if not missing.isdisjoint(c.encode("utf-8", "surrogatepass")))
            raise ValueError(
                f"{path.rstrip('/')}/{keyword} has {bad!a} (U+{ord(bad):04X}), a character for which this model has "
                "no tokens"
            )


def _check_spelling(part: dict[str, Any], path: str) -> None:
    r"""Refuse strings that cannot be written without `\u` escapes."""
    for keyword, demanded in _demanded(part):
        if _WITHOUT_LETTER.search(demanded):
            raise ValueError(
                f"{path.rstrip('/')}/{keyword} has a control character, which cannot be written where an object may "
                "have other keys: leave it out, or set additionalProperties to false"
            )


def _demanded(part: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the strings that an answer must contain unchanged, each with its keyword."""
    for keyword in ("const", "enum", "properties", "required"):
        value = part.get(keyword)
        texts = list(value) if keyword == "properties" and isinstance(value, dict) else value
        yield from ((keyword, text) for text in _strings(texts))


def _strings(value: Any) -> Iterator[str]:
    """Yield all strings in a JSON value, including keys."""
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
    """Refuse what llguidance accepts but gets wrong."""
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
    """Rewrite, in place, what llguidance would misread."""
    if part.get("uniqueItems") is False:
        del part["uniqueItems"]
    try:
        if isinstance(part.get("pattern"), str):
            part["pattern"] = to_rust(part["pattern"])
        if isinstance(part.get("patternProperties"), dict):
            part["patternProperties"] = {to_rust(key): sub for key, sub in part["patternProperties"].items()}
            if "additionalProperties" in part:  # llguidance needs the two next to each other
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
