"""From tokens to text that can be shown: whole characters only, and nothing that may turn into a stop string."""

from __future__ import annotations

import codecs
from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate, islice


def decode_whole(raw: bytes) -> str:
    """Decode UTF-8, leaving out an incomplete character at the end; invalid bytes become U+FFFD."""
    return codecs.utf_8_decode(raw, "replace", False)[0]


class TextAssembler:
    """Collects the bytes of an answer token by token and determines which tokens can be released.

    A token is released once its bytes end with a whole character and no stop string can begin in them any more. So the
    text of a released piece is exactly the text of its tokens, and the released tokens are all that another replica
    needs to continue.
    """

    def __init__(self, stop: tuple[str, ...]) -> None:
        self._stop = tuple(s.encode() for s in stop)
        self._longest = max(map(len, self._stop), default=0)
        self._raw = bytearray()
        self._ends: list[int] = []  # each token's end in _raw
        self._cut: int | None = None  # where the stop string that ended the text begins
        self._released = 0  # number of tokens

    def push(self, piece: bytes) -> bool:
        """Add a token by its bytes; return True if it completes a stop string, before which the text ends."""
        self.extend((piece,))
        return self.stopped

    def extend(self, pieces: Sequence[bytes]) -> int:
        """Add tokens by their bytes, up to the one that completes a stop string; return how many were added."""
        before, searched = len(self._ends), len(self._raw)
        self._raw += b"".join(pieces)
        self._ends.extend(islice(accumulate(map(len, pieces), initial=searched), 1, None))
        start = max(0, searched - self._longest + 1)
        found = [(at + len(s), at) for s in self._stop if (at := self._raw.find(s, start)) >= 0]
        if found:
            last = bisect_left(self._ends, min(found)[0], before)
            self._cut = min(at for end, at in found if end <= self._ends[last])
            del self._ends[last + 1 :], self._raw[self._ends[last] :]
        return len(self._ends) - before

    @property
    def stopped(self) -> bool:
        """Whether a stop string has ended the text."""
        return self._cut is not None

    def release(self, *, final: bool = False) -> tuple[str, int]:
        """Return the text that can newly be shown, and its number of tokens; everything that is left if `final`."""
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
        """Return the offset from which on the bytes may be the beginning of a stop string."""
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
