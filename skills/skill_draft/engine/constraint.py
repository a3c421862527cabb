"""Constraints: from the contract's fields to a grammar for llguidance.

llguidance returns, at each point of an answer, which tokens may come next. It reads JSON schemas itself; the other four
notations are translated. What it would accept but get wrong is refused here, in `schema` and in `gbnf`; what costs too
much is refused in `trial`.
"""

from __future__ import annotations

import json
import re

from llguidance import LLMatcher

from .gbnf import gbnf_to_lark
from .messages import Constraint, ConstraintKind
from .schema import schema_to_grammar

MAX_BYTES = 64 * 1024
MAX_MESSAGE = 300

# Strings, regular expressions and comments of a Lark grammar, which may contain anything.
_LARK_TEXT = re.compile(r'"(?:\\.|[^"\\\n])*"|/(?!/)(?:\\.|\[(?:\\.|[^\]\\\n])*\]|[^/\\\n])+/|(?://|#)[^\n]*')
# These would end an answer early, retract text that was sent, or be ignored.
_LARK_OPTION = re.compile(r"\b(max_tokens|temperature|stop|stop_capture)\b\s*[=:]?")
_LARK_TOKEN = re.compile(r"<[^<>\n]*>")


class ConstraintError(Exception):
    """A constraint that is refused; the message names the keyword, the construct or the limit."""


def to_grammar(constraint: Constraint) -> str:
    """Return the grammar for llguidance to compile.

    Raises:
        ConstraintError: The constraint is too large, malformed, or not supported.
    """
    if len(constraint.text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        raise ConstraintError(f"larger than {MAX_BYTES} bytes")
    try:
        match constraint.kind:
            case ConstraintKind.JSON_SCHEMA:
                return schema_to_grammar(constraint.text, weaker=constraint.allow_weaker)
            case ConstraintKind.JSON_OBJECT:
                return schema_to_grammar('{"type": "object"}')
            case ConstraintKind.GRAMMAR:
                return _lark(gbnf_to_lark(constraint.text))
            case ConstraintKind.LARK:
                _check_lark(constraint.text)
                return _lark(constraint.text)
            case ConstraintKind.REGEX:
                return LLMatcher.grammar_from_regex(constraint.text)
    except RecursionError:
        raise ConstraintError("nests too deeply") from None
    except ValueError as error:
        raise ConstraintError(str(error)[:MAX_MESSAGE]) from error


def _lark(text: str) -> str:
    """Wrap a Lark grammar in JSON: bare text that begins with a brace would be read as a list of grammars."""
    return json.dumps({"grammars": [{"lark_grammar": text}]})


def _check_lark(text: str) -> None:
    bare = _LARK_TEXT.sub(" ", text)
    if option := _LARK_OPTION.search(bare):
        raise ValueError(f"uses {option[1]!r}, which is not supported")
    if token := _LARK_TOKEN.search(bare):
        raise ValueError(f"names the token {token[0]}: control tokens cannot be written")
