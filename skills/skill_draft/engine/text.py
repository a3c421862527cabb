"""Tokens to text that may be shown: whole characters only, and nothing that may yet become a stop string."""

from __future__ import annotations

import codecs
from collections.abc import Callable


def decode_whole(raw: bytes) -> str:
    """The text of the bytes without an unfinished character at their end; impossible bytes become U+FFFD."""
    return codecs.utf_8_decode(raw, "replace", False)[0]


class TextAssembler:
    """Collects the bytes of an answer token by token and says which tokens can be released.

    A token is released when all its bytes can be: they end with a whole character, and no stop string can begin in
    them any more. So the text of a released piece is exactly the text of its tokens, and the tokens released so far
    are all that is needed to go on elsewhere.
    """

    def __init__(self, piece: Callable[[int], bytes], stop: tuple[str, ...]) -> None:
        self._piece = piece
        self._stop = tuple(s.encode() for s in stop)
        self._longest = max(map(len, self._stop), default=0)
        self._raw = bytearray()
        self._ends: list[int] = []  # of each token, its end in _raw
        self._cut: int | None = None  # where the stop string begins that ended the text
        self._released = 0  # tokens

    def push(self, token: int) -> bool:
        """Adds a token; True if a stop string is complete, which ends the text before it."""
        searched = len(self._raw)
        self._raw += self._piece(token)
        self._ends.append(len(self._raw))
        if self._longest:
            start = max(0, searched - self._longest + 1)
            found = [at for s in self._stop if (at := self._raw.find(s, start)) >= 0]
            if found:
                self._cut = min(found)
        return self._cut is not None

    def release(self, *, final: bool = False) -> tuple[str, int]:
        """The text that can be shown now and was not yet, and how many tokens it is; all of it if `final`."""
        begin = self._ends[self._released - 1] if self._released else 0
        if final:
            count = len(self._ends) - self._released
            self._released = len(self._ends)
            return decode_whole(bytes(self._raw[begin : self._cut])), count
        limit = self._undecided()
        for count in range(len(self._ends) - self._released, 0, -1):
            end = self._ends[self._released + count - 1]
            if end > limit:
                continue
            text, consumed = codecs.utf_8_decode(bytes(self._raw[begin:end]), "replace", False)
            if consumed == end - begin:
                self._released += count
                return text, count
        return "", 0

    def _undecided(self) -> int:
        """From which byte on the text may be the beginning of a stop string."""
        limit = len(self._raw)
        for stop in self._stop:
            at = self._raw.find(stop[:1], max(0, len(self._raw) - len(stop) + 1))
            while at >= 0:
                if stop.startswith(self._raw[at:]):
                    limit = min(limit, at)
                    break
                at = self._raw.find(stop[:1], at + 1)
        return limit

    @property
    def raw(self) -> bytes:
        """All bytes so far."""
        return bytes(self._raw)

    @property
    def text(self) -> str:
        """The whole text, cut before the stop string."""
        return decode_whole(bytes(self._raw[: self._cut]))
