r"""Convert GBNF, llama.cpp's grammar notation, to Lark, llguidance's.

The two differ in more than spelling. llguidance always takes the longest lexeme, so `[a-z]+ "ing"` as two lexemes could
never be completed. Therefore a grammar without recursion becomes a single lexeme, the fastest form there is, and one
with recursion gets lexemes of one character each, which leave no choice of length. llguidance's own converter
(`llguidance.gbnf_to_lark`) does neither; it also breaks `\u0041`, reads `[a&&b]` as an intersection, and drops the
first of two rules with the same name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_LEXEME = re.compile(
    r"""(?P<skip>\s+|\#[^\n]*)
      | (?P<literal>"(?:\\.|[^"\\\n])*")
      | (?P<chars>\[(?:\\.|[^\]\\\n])*\])
      | (?P<rule>[A-Za-z0-9_-]+)\s*::=
      | (?P<name>[A-Za-z0-9_-]+)
      | (?P<repeat>[*+?]|\{\s*\d{1,9}\s*(?:,\s*\d{0,9}\s*)?\})
      | (?P<sign>[()|.])
      | (?P<other>.)""",
    re.VERBOSE | re.DOTALL,
)
_CHARACTER = re.compile(r"\\x([0-9A-Fa-f]{2})|\\u([0-9A-Fa-f]{4})|\\U([0-9A-Fa-f]{8})|\\(.)|(.)", re.DOTALL)
_SIMPLE = {"n": "\n", "r": "\r", "t": "\t", '"': '"', "\\": "\\", "[": "[", "]": "]"}
_LAST = 0x10FFFF

Rules = dict[str, list[tuple[str, str]]]


def gbnf_to_lark(text: str) -> str:
    """Return a Lark grammar that accepts the same texts.

    Raises:
        ValueError: The grammar is malformed; the message continues a sentence whose subject is the grammar.
    """
    rules = _rules(text)
    if "root" not in rules:
        raise ValueError("has no rule named root: a rule is written `name ::= ...`")
    for name, body in rules.items():
        if missing := next((word for kind, word in body if kind == "name" and word not in rules), None):
            raise ValueError(f"the rule {name!r} uses {missing!r}, which is not defined")
    whole = not _is_recursive(rules)
    # In Lark, lower-case names are rules and upper-case names are lexemes.
    names = {name: f"{'R' if whole else 'r'}{i}" for i, name in enumerate(rules)}
    # llguidance collects forced text until there is none left, which never ends for `root ::= "a" root`.
    lines = [f"start: {names['root']}"] if whole else ['%llguidance {"no_forcing": true}', f"start: {names['root']}"]
    for name, body in rules.items():
        lines.append(f"{names[name]}: " + " ".join(_lark(kind, word, names, whole=whole) for kind, word in body))
    return "\n".join(lines) + "\n"


def _rules(text: str) -> Rules:
    """Return each rule with the lexemes of its body."""
    rules: Rules = {}
    body: list[tuple[str, str]] | None = None
    for match in _LEXEME.finditer(text):
        kind, word = match.lastgroup or "", match[0]
        if kind == "rule":
            word = match["rule"]
            if word in rules:
                raise ValueError(f"defines the rule {word!r} twice")
            body = rules[word] = []
        elif kind == "other" or (body is None and kind != "skip"):
            line = text.count("\n", 0, match.start()) + 1
            raise ValueError(f"cannot be read at {text[match.start() : match.start() + 20]!r} in line {line}")
        elif body is not None and kind != "skip":
            body.append((kind, word))
    return rules


def _is_recursive(rules: Rules) -> bool:
    """Return whether any rule refers to itself, directly or not: remove leaf rules until none is left."""
    uses = {name: {word for kind, word in body if kind == "name"} for name, body in rules.items()}
    users: dict[str, list[str]] = {name: [] for name in rules}
    for name, used in uses.items():
        for word in used:
            users[word].append(name)
    left = {name: len(used) for name, used in uses.items()}
    leaves = [name for name, used in left.items() if not used]
    for leaf in leaves:
        for user in users[leaf]:
            left[user] -= 1
            if not left[user]:
                leaves.append(user)
    return len(leaves) < len(rules)


def _lark(kind: str, word: str, names: dict[str, str], *, whole: bool) -> str:
    if kind == "name":
        return names[word]
    if kind == "literal":
        characters = "".join(map(chr, _characters(word[1:-1])))
        parts = [characters] if whole or not characters else list(characters)
        return "(" + " ".join(_string(part) for part in parts) + ")"
    if kind == "chars":
        return f"/{_class(word)}/"
    return r"/(?s:.)/" if word == "." else word


def _characters(raw: str) -> Iterator[int]:
    for match in _CHARACTER.finditer(raw):
        hexadecimal = match[1] or match[2] or match[3]
        if match[4] and match[4] not in _SIMPLE:
            raise ValueError(f"has the escape \\{match[4]}, which GBNF does not know")
        code = int(hexadecimal, 16) if hexadecimal else ord(_SIMPLE[match[4]] if match[4] else match[5])
        if code > _LAST or 0xD800 <= code < 0xE000:
            raise ValueError(f"names {match[0]}, which is no character")
        yield code


def _string(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + re.sub(r"[\x00-\x1f\x7f]", lambda match: f"\\x{ord(match[0]):02x}", escaped) + '"'


def _class(word: str) -> str:
    """Return the class for a regular expression, each character as a number so that none has a special meaning."""
    inner = word[1:-1]
    negated = inner.startswith("^")
    # A range is two characters with a minus between; as in GBNF, an escaped minus (`\x2d`) counts too.
    codes = list(_characters(inner[negated:]))
    items, at = [], 0
    while at < len(codes):
        if at + 2 < len(codes) and codes[at + 1] == ord("-"):
            if codes[at] > codes[at + 2]:
                raise ValueError(f"has the range {word}, which runs backwards")
            items.append(f"{_number(codes[at])}-{_number(codes[at + 2])}")
            at += 3
        else:
            items.append(_number(codes[at]))
            at += 1
    if not items:
        return r"(?s:.)" if negated else r"[^\x00-\x{10FFFF}]"
    return f"[{'^' if negated else ''}{''.join(items)}]"


def _number(code: int) -> str:
    return f"\\x{{{code:x}}}"
