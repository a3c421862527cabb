r"""Texts in which \n, \t and \\ stand for a line end, a tab and a backslash, as no shell makes them easy to type."""

from __future__ import annotations

import re

_ESCAPES = {r"\n": "\n", r"\t": "\t", r"\\": "\\"}
_WRITTEN = {character: escape for escape, character in _ESCAPES.items()}


class EscapeError(ValueError):
    """A backslash before something else."""


def unescape(text: str) -> str:
    r"""The text that is meant.

    Raises:
        EscapeError: a backslash begins none of the escapes. It is not taken for itself: who writes `\alpha` and gets
            away with it would next write `\theta` and get a tab.
    """

    def meant(found: re.Match[str]) -> str:
        if found[0] not in _ESCAPES:
            raise EscapeError(rf"{found[0]} in {text} is none of \n, \t and \\: a backslash is written \\")
        return _ESCAPES[found[0]]

    return re.sub(r"\\.?", meant, text, flags=re.DOTALL)


def escape(text: str) -> str:
    """The text as it is typed."""
    return "".join(_WRITTEN.get(character, character) for character in text)
