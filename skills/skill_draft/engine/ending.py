"""Find a short valid ending for a JSON answer that has reached a limit.

Whatever can be closed is closed, and whatever is required is written as briefly as the schema permits. The ending is
short but not always the shortest: an exhaustive search would take seconds.
"""

from __future__ import annotations

from dataclasses import dataclass

from .constraint import ConstraintError
from .matcher import Matcher

_STRUCTURE = b"}]:,"  # outside strings, best first
_ORDER = b'"0123456789ntf{[-.aeioubcdghjklmpqrsvwxyz'
_CHOICES = bytes([*_ORDER, *(b for b in range(256) if b not in _ORDER and b not in b" \t\n\r\\")])
_FREE = 128  # more choices than this mean free text, where any byte will do
_MOST_ALIKE = 16  # beam width: states kept at each depth
# A state takes about 60 µs, during which all other answers wait.
_MAX_STATES = 2500
_QUOTE, _BACKSLASH = b'"\\'


@dataclass(slots=True)
class _State:
    matcher: Matcher
    way: list[int]
    in_string: bool = False
    escaped: bool = False
    allowed: dict[int, int] | None = None
    age: int = 0
    """Number of bytes since the set of allowed bytes last changed."""

    def read(self, text: bytes) -> None:
        for byte in text:
            self.in_string ^= byte == _QUOTE and not self.escaped
            self.escaped = byte == _BACKSLASH and not self.escaped

    def after(self, tokens: list[int]) -> _State:
        matcher = self.matcher.copy()
        for token in tokens:
            matcher.accept(token)
        after = _State(matcher, [*self.way, *tokens], self.in_string, self.escaped)
        after.read(matcher.text(tokens))
        return after

    def next_bytes(self) -> dict[int, int]:
        if self.allowed is None:
            self.allowed = self.matcher.allowed_bytes()
        return self.allowed


def ending(matcher: Matcher, so_far: bytes, max_tokens: int) -> list[int]:
    """Return tokens that complete an answer; empty if it is complete already or no short ending was found.

    Args:
        matcher: The grammar's state after the answer so far; not changed.
        so_far: The answer's bytes.
        max_tokens: The most tokens that the ending may have.
    """
    begin = _State(matcher, [])
    begin.read(so_far)
    state: _State | None = begin
    left = [_MAX_STATES]
    try:
        while state and not state.matcher.is_accepting:
            if len(state.way) > 8 * max_tokens or left[0] <= 0:
                return []
            state = _closer(state, left)
    except ConstraintError:  # the search was too costly; the answer's own matcher is untouched
        return []
    tokens = matcher.respelled(state.way) if state else []
    return tokens if len(tokens) <= max_tokens else []


def _closer(state: _State, left: list[int]) -> _State | None:
    """Return the nearest state in which one more thing is closed or separated, breadth first; None if there is none."""
    level = [state]
    while level and left[0] > 0:
        alike: dict[frozenset[int], _State] = {}
        for at in level:
            if forced := at.matcher.forced():
                return at.after(forced)
            allowed = at.next_bytes()
            for byte in b'"' if at.in_string else _STRUCTURE:
                if byte in allowed:
                    return at.after([allowed[byte]])
            choices = [byte for byte in _CHOICES if byte in allowed]
            for byte in choices[: 1 if len(choices) > _FREE else None]:
                left[0] -= 1
                after = at.after([allowed[byte]])
                if after.matcher.is_accepting:
                    return after
                # States that allow the same bytes are most likely equivalent: keep the one that did so for longest.
                after.age = at.age + 1 if after.next_bytes().keys() == allowed.keys() else 0
                key = frozenset(after.next_bytes())
                if key not in alike or after.age > alike[key].age:
                    alike[key] = after
        level = list(alike.values())[:_MOST_ALIKE]
    return None
