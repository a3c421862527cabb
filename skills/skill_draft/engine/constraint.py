"""What a grammar or a JSON schema must keep to before llama.cpp sees it.

llama.cpp's grammar parser recurses without a limit: 60,000 brackets or a chain of thousands of rules overflow its
stack, and the process is gone. So both are measured here first, without recursion, and refused with the limit named.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from .binding import schema_to_gbnf

MAX_BYTES = 64 * 1024
MAX_NESTING = 64
MAX_RULES = 512
MAX_CHAIN = 128  # rules that lead to one another
MAX_REPEAT = 2000
MAX_SCHEMA_DEPTH = 32

_LEXEME = re.compile(
    r"""(?P<skip>\s+|\#[^\n]*)
      | (?P<literal>"(?:\\.|[^"\\])*" | \[(?:\\.|[^\]\\])*\])
      | (?P<rule>[A-Za-z0-9_-]+)(?=\s*::=)
      | (?P<name>[A-Za-z0-9_-]+)
      | (?P<repeat>\{[^}]*\})
      | (?P<open>\() | (?P<close>\))
      | (?P<other>.)""",
    re.VERBOSE | re.DOTALL,
)
_REPEAT = re.compile(r"\{\s*(\d*)\s*,?\s*(\d*)\s*\}")

_STRUCTURE = {"type", "properties", "required", "additionalProperties", "items", "prefixItems", "$ref", "$defs"}
_CHOICE = {"enum", "const", "anyOf", "oneOf", "allOf", "definitions"}
_BOUNDS = {"minItems", "maxItems", "minLength", "maxLength", "format", "pattern"}
_REMARKS = {"title", "description", "default", "examples", "$schema", "$id", "$comment"}
_KEYWORDS = _STRUCTURE | _CHOICE | _BOUNDS | _REMARKS
_TYPES = frozenset(("object", "array", "string", "number", "integer", "boolean", "null"))
_FORMATS = frozenset(("date", "time", "date-time", "uuid"))
_REF = re.compile(r"#/(?:\$defs|definitions)/([A-Za-z][A-Za-z0-9_]*)")
# Names that the converter gives to rules of its own.
_RULE_NAMES = _TYPES | _FORMATS | {"space", "root", "value", "char"}
# Literals, classes, groups, alternatives and repeats; escapes of punctuation only: no \d, \b, inner ^ or $.
_PATTERN = re.compile(r"\^(?:[^\\^$\[\]]|\\[^A-Za-z0-9]|\[\^?(?:[^\\\]]|\\[^A-Za-z0-9])+\])*\$")


class ConstraintError(Exception):
    """A grammar or schema that is refused; the message names the limit or the keyword."""


def check_grammar(gbnf: str) -> str:
    """Returns the grammar if llama.cpp can be given it; raises `ConstraintError` if not."""
    if len(gbnf.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        raise ConstraintError(f"larger than {MAX_BYTES} bytes")
    if "\0" in gbnf:
        raise ConstraintError("holds a NUL character")
    lexemes = [(match.lastgroup or "", match[0]) for match in _LEXEME.finditer(gbnf)]
    _check_nesting(lexemes)
    for kind, text in lexemes:
        if kind == "repeat":
            _check_repeat(text)
    rules = _rules(lexemes)
    if len(rules) > MAX_RULES:
        raise ConstraintError(f"has more than {MAX_RULES} rules")
    if "root" not in rules:
        raise ConstraintError("has no rule named root")
    undefined = sorted(set().union(*rules.values()) - rules.keys())
    if undefined:
        raise ConstraintError(f"uses the rule {undefined[0]!r} without defining it")
    _check_chains(rules)
    return gbnf


def _check_nesting(lexemes: list[tuple[str, str]]) -> None:
    depth = 0
    for kind, _ in lexemes:
        depth += (kind == "open") - (kind == "close")
        if depth > MAX_NESTING:
            raise ConstraintError(f"brackets nest deeper than {MAX_NESTING}")


def _rules(lexemes: list[tuple[str, str]]) -> dict[str, set[str]]:
    """Each rule with the rules that it uses."""
    rules: dict[str, set[str]] = {}
    current: set[str] = set()
    for kind, text in lexemes:
        if kind == "rule":
            current = rules.setdefault(text, set())
        elif kind == "name":
            current.add(text)
    return rules


def _check_repeat(text: str) -> None:
    bounds = _REPEAT.fullmatch(text)
    if not bounds:
        raise ConstraintError(f"{text[:40]!r} is not a repetition: write {{m}}, {{m,}} or {{m,n}}")
    if any(len(bound) > 6 or int(bound) > MAX_REPEAT for bound in bounds.groups() if bound):
        raise ConstraintError(f"the repetition {text[:40]} is above {MAX_REPEAT}")


def _check_chains(rules: dict[str, set[str]]) -> None:
    """Refuses chains of rules longer than `MAX_CHAIN`; a cycle counts each of its rules once."""
    length: dict[str, int] = {}
    for first, used in rules.items():
        stack: list[tuple[str, Iterator[str]]] = [(first, iter(used))] if first not in length else []
        open_rules = {first}
        while stack:
            if len(stack) > MAX_CHAIN:
                raise ConstraintError(f"has a chain of more than {MAX_CHAIN} rules")
            name, successors = stack[-1]
            for successor in successors:
                if successor not in length and successor not in open_rules:
                    open_rules.add(successor)
                    stack.append((successor, iter(rules[successor])))
                    break
            else:
                length[name] = 1 + max((length.get(s, 0) for s in rules[name]), default=0)
                if length[name] > MAX_CHAIN:
                    raise ConstraintError(f"has a chain of more than {MAX_CHAIN} rules")
                stack.pop()


def grammar_from_schema(schema: str) -> str:
    """The grammar of a JSON schema; raises `ConstraintError` for what the converter would ignore or choke on."""
    if len(schema.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        raise ConstraintError(f"larger than {MAX_BYTES} bytes")
    try:
        parsed = json.loads(schema)
    except RecursionError:
        raise ConstraintError(f"nests deeper than {MAX_SCHEMA_DEPTH}") from None
    except ValueError as error:
        raise ConstraintError(f"is not JSON: {error}") from error
    if not isinstance(parsed, dict):
        raise ConstraintError("must be a JSON object")
    definitions = {**_subschemas(parsed, "$defs"), **_subschemas(parsed, "definitions")}
    for schema_part, path, depth in _walk(parsed):
        _check_schema(schema_part, path, depth, definitions)
    try:
        return check_grammar(schema_to_gbnf(schema))
    except ConstraintError as error:
        raise ConstraintError(f"becomes a grammar that {error}") from error
    except Exception as error:  # the converter raises whatever its Python trips over
        raise ConstraintError(f"cannot be turned into a grammar: {type(error).__name__}: {error}") from error


def _subschemas(schema: dict[str, Any], key: str) -> dict[str, Any]:
    value = schema.get(key, {})
    return value if isinstance(value, dict) else {}


def _walk(root: dict[str, Any]) -> Iterator[tuple[Any, str, int]]:
    """All schemas in a schema, with their paths and depths."""
    pending: list[tuple[Any, str, int]] = [(root, "", 0)]
    while pending:
        schema, path, depth = pending.pop()
        yield schema, path, depth
        if not isinstance(schema, dict):
            continue
        for key in ("properties", "$defs", "definitions"):
            pending += [(sub, f"{path}/{key}/{name}", depth + 1) for name, sub in _subschemas(schema, key).items()]
        for key in ("items", "prefixItems", "anyOf", "oneOf", "allOf", "additionalProperties"):
            value = schema.get(key)
            for i, sub in enumerate(value if isinstance(value, list) else [value]):
                if isinstance(sub, dict) or isinstance(value, list):
                    pending.append((sub, f"{path}/{key}/{i}", depth + 1))


def _check_schema(schema: Any, path: str, depth: int, definitions: dict[str, Any]) -> None:
    where = path or "/"
    if not isinstance(schema, dict):
        raise ConstraintError(f"{where} must be an object")
    if depth > MAX_SCHEMA_DEPTH:
        raise ConstraintError(f"nests deeper than {MAX_SCHEMA_DEPTH}")
    if unknown := sorted(schema.keys() - _KEYWORDS):
        raise ConstraintError(f"{where} uses {unknown[0]!r}, which is not supported")
    _check_types_and_bounds(schema, where)
    _check_strings(schema, where)
    if "$ref" in schema:
        target = _REF.fullmatch(str(schema["$ref"]))
        if not target or target[1] not in definitions:
            raise ConstraintError(f"{where}: $ref {schema['$ref']!r} is not one of this schema's own $defs")
        if target[1] in _RULE_NAMES:
            raise ConstraintError(f"{where}: rename the definition {target[1]!r}, which is a name of the grammar's own")


def _check_types_and_bounds(schema: dict[str, Any], where: str) -> None:
    types = schema.get("type", [])
    if not set(map(str, types if isinstance(types, list) else [types])) <= _TYPES:
        raise ConstraintError(f"{where}: {types!r} is not a type of JSON")
    for bound in ("minItems", "maxItems", "minLength", "maxLength"):
        value = schema.get(bound, 0)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_REPEAT:
            raise ConstraintError(f"{where}: {bound} must be a whole number from 0 to {MAX_REPEAT}")


def _check_strings(schema: dict[str, Any], where: str) -> None:
    if "format" in schema and schema["format"] not in _FORMATS:
        known = ", ".join(sorted(_FORMATS))
        raise ConstraintError(f"{where}: format {schema['format']!r} is not supported (only {known})")
    if "pattern" not in schema:
        return
    pattern = schema["pattern"]
    if not isinstance(pattern, str) or not _PATTERN.fullmatch(pattern):
        raise ConstraintError(
            f"{where}: pattern must begin with ^, end with $ and hold neither of them inside, nor classes like \\d"
        )
    for repeat in re.findall(r"\{[^}]*\}", pattern):
        _check_repeat(repeat)
