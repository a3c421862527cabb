"""A short way to end a JSON answer that its limit has cut in the middle.

What can be closed is closed, and what is required is written as shortly as the schema lets it be. The way is short, not
always the shortest: to look at all of them would take seconds.
"""

from __future__ import annotations

from dataclasses import dataclass

from .constraint import ConstraintError
from .matcher import Matcher

_STRUCTURE = b"}]:,"  # outside of strings, the best first
_ORDER = b'"0123456789ntf{[-.aeioubcdghjklmpqrsvwxyz'
_CHOICES = bytes([*_ORDER, *(b for b in range(256) if b not in _ORDER and b not in b" \t\n\r\\")])
_FREE = 128  # with more bytes to choose from it is free text, and one is as good as another
_MOST_ALIKE = 16  # places of one length that are followed
# A place costs about 60 µs, and other answers wait meanwhile.
_MAX_PLACES = 2500
_QUOTE, _BACKSLASH = b'"\\'


@dataclass(slots=True)
class _Place:
    matcher: Matcher
    way: list[int]
    in_string: bool = False
    escaped: bool = False
    allowed: dict[int, int] | None = None
    age: int = 0
    """For how many bytes the same ones have been allowed."""

    def read(self, text: bytes) -> None:
        for byte in text:
            self.in_string ^= byte == _QUOTE and not self.escaped
            self.escaped = byte == _BACKSLASH and not self.escaped

    def after(self, tokens: list[int]) -> _Place:
        matcher = self.matcher.copy()
        for token in tokens:
            matcher.accept(token)
        after = _Place(matcher, [*self.way, *tokens], self.in_string, self.escaped)
        after.read(matcher.text(tokens))
        return after

    def next_bytes(self) -> dict[int, int]:
        if self.allowed is None:
            self.allowed = self.matcher.allowed_bytes()
        return self.allowed


def ending(matcher: Matcher, so_far: bytes, max_tokens: int) -> list[int]:
    """Tokens after which an answer fits its constraint; none where it does already or no short way was found."""
    begin = _Place(matcher, [])
    begin.read(so_far)
    place: _Place | None = begin
    left = [_MAX_PLACES]
    try:
        while place and not place.matcher.is_accepting:
            if len(place.way) > 8 * max_tokens or left[0] <= 0:
                return []
            place = _closer(place, left)
    except ConstraintError:  # too costly on the way; the answer itself stands where it stood
        return []
    tokens = matcher.respelled(place.way) if place else []
    return tokens if len(tokens) <= max_tokens else []


def _closer(place: _Place, left: list[int]) -> _Place | None:
    """A place where something more is closed, or separated from what comes next: the nearest, breadth first."""
    level = [place]
    while level and left[0] > 0:
        alike: dict[frozenset[int], _Place] = {}
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
                # Where the same bytes may follow it is the same place, most likely: in a run of them, the farther one.
                after.age = at.age + 1 if after.next_bytes().keys() == allowed.keys() else 0
                key = frozenset(after.next_bytes())
                if key not in alike or after.age > alike[key].age:
                    alike[key] = after
        level = list(alike.values())[:_MOST_ALIKE]
    return None
