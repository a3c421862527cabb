"""Refuse numbers in JSON schemas that llguidance would miscalculate.

Bounds and divisors of combined schemas interact, and only compiling shows which ones do. So all numbers of a schema are
checked against each other.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

# llguidance computes with doubles, which represent every integer up to this one.
_EXACT = 2**53
_MULTIPLE = 2**32
_KEYWORDS = ("const", "enum", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")


class Numbers:
    """The numbers of one schema."""

    def __init__(self) -> None:
        self._paths: dict[str, dict[Fraction, str]] = {keyword: {} for keyword in _KEYWORDS}

    def add(self, part: dict[str, Any], path: str) -> None:
        """Add the numbers of one subschema; raise `ValueError` if one is too large to be exact."""
        for keyword in _KEYWORDS:
            if any(abs(number) > _EXACT for number in _numbers(part.get(keyword))):
                raise ValueError(f"{path}: {keyword} has a number beyond 2^53, which is not exact")
            value = part.get(keyword)
            if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
                self._paths[keyword].setdefault(Fraction(str(value)), path)

    def check(self) -> None:
        """Raise `ValueError` if llguidance would miscalculate some combination of the numbers."""
        self._check_divisors()
        self._check_bounds("exclusiveMinimum", ("maximum", "exclusiveMaximum"), math.floor)
        self._check_bounds("exclusiveMaximum", ("minimum", "exclusiveMinimum"), math.ceil)

    def _check_divisors(self) -> None:
        """Refuse divisors whose least common multiple overflows 32 bits, which llguidance does not check."""
        multiple, scale = 1, 1
        for divisor, path in self._paths["multipleOf"].items():
            grown = math.lcm(scale, divisor.denominator)
            multiple, scale = math.lcm(multiple * (grown // scale), abs(int(divisor * grown))), grown
            if len(self._paths["multipleOf"]) > 1 and not 0 < multiple < _MULTIPLE:
                raise ValueError(f"{path}: multipleOf is not supported with others whose common multiple exceeds 2^32")

    def _check_bounds(self, keyword: str, others: tuple[str, str], whole: Any) -> None:
        """Refuse an exclusive integer bound less than 1 from another: llguidance would allow the excluded integer."""
        near = {whole(n) for other in others for n in self._paths[other] if n.denominator > 1}
        for bound, path in self._paths[keyword].items():
            if bound in near:
                raise ValueError(f"{path}: {keyword} {bound} is not supported with a bound less than 1 away")


def _numbers(value: Any) -> Iterator[float]:
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, (list, dict)):
            pending += item.values() if isinstance(item, dict) else item
        elif isinstance(item, (int, float)):
            yield item
