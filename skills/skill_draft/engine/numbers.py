"""Numbers of JSON schemas with which llguidance would compute wrongly.

Bounds and divisors meet where schemas are combined, and only compiling them shows which ones do. So all those of a
schema are looked at together.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

# Doubles hold all whole numbers up to here, and llguidance computes with doubles.
_EXACT = 2**53
_MULTIPLE = 2**32
_KEYWORDS = ("const", "enum", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")


class Numbers:
    """The numbers of one schema."""

    def __init__(self) -> None:
        self._paths: dict[str, dict[Fraction, str]] = {keyword: {} for keyword in _KEYWORDS}

    def add(self, part: dict[str, Any], path: str) -> None:
        """Takes in a part of the schema; raises `ValueError` if a number of it cannot be computed with."""
        for keyword in _KEYWORDS:
            if any(abs(number) > _EXACT for number in _numbers(part.get(keyword))):
                raise ValueError(f"{path}: {keyword} has a number beyond 2^53, which is not exact")
            value = part.get(keyword)
            if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
                self._paths[keyword].setdefault(Fraction(str(value)), path)

    def check(self) -> None:
        """Raises `ValueError` if some of the numbers cannot meet."""
        self._check_divisors()
        self._check_bounds("exclusiveMinimum", ("maximum", "exclusiveMaximum"), math.floor)
        self._check_bounds("exclusiveMaximum", ("minimum", "exclusiveMinimum"), math.ceil)

    def _check_divisors(self) -> None:
        """The least common multiple is computed in 32 bits, without a look at what is lost."""
        multiple, scale = 1, 1
        for divisor, path in self._paths["multipleOf"].items():
            grown = math.lcm(scale, divisor.denominator)
            multiple, scale = math.lcm(multiple * (grown // scale), abs(int(divisor * grown))), grown
            if len(self._paths["multipleOf"]) > 1 and not 0 < multiple < _MULTIPLE:
                raise ValueError(f"{path}: multipleOf is not supported with others that have no multiple below 2^32")

    def _check_bounds(self, keyword: str, others: tuple[str, str], whole: Any) -> None:
        """Between 0, exclusive, and 0.5 llguidance lets 0 be written, as between any whole number and a near one."""
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
