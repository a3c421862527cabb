"""Translate regular expressions from JSON Schema's dialect, which is JavaScript's, to llguidance's, which is Rust's."""

from __future__ import annotations

import re

_SPACE = r"\t\n\x0b\x0c\r \u{a0}\u{1680}\u{2000}-\u{200a}\u{2028}\u{2029}\u{202f}\u{205f}\u{3000}\u{feff}"
_ESCAPED = {"s": f"[{_SPACE}]", "S": f"[^{_SPACE}]"}
# Pydantic's pattern for decimal numbers uses a look-ahead to require a digit.
_DECIMAL = (r"(?!^[-+.]*$)[+-]?0*\d*\.?\d*", r"[+-]?(?:\d+\.?\d*|\.\d+)")
_PART = re.compile(r"(\\c[A-Za-z]|\\.)|(.)", re.DOTALL)
# In a Rust character class these nest, intersect and subtract classes; in a JavaScript one they are plain characters.
_CLASS_SIGNS = {"[": r"\[", "&": r"\&", "~": r"\~"}


def to_rust(pattern: str) -> str:
    """Return the equivalent pattern for Rust; raise `ValueError` for what has none."""
    parts: list[str] = []
    in_class = False
    for match in _PART.finditer(pattern.replace(*_DECIMAL)):
        escape, character = match.groups()
        if escape:
            parts.append(_escape(escape))
        elif in_class:
            if character == "-" and parts[-1] == "-":
                raise ValueError("has -- in a character class: escape the second one")
            in_class = character != "]"
            if not in_class and (parts[-1] == "[" or parts[-2:] == ["[", "^"]):
                raise ValueError("has an empty character class")
            parts.append(_CLASS_SIGNS.get(character, character))
        elif character == ".":
            parts.append(r"[^\n\r\u{2028}\u{2029}]")
        else:
            in_class = character == "["
            parts.append(character)
    return "".join(parts)


def _escape(escape: str) -> str:
    if escape[1:2] == "c" and len(escape) == 3:
        return f"\\x{ord(escape[2]) % 32:02x}"
    if escape == r"\b":
        raise ValueError(r"uses \b, which is not supported")
    return _ESCAPED.get(escape[1:], escape)
