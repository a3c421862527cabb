"""The calls that wait for a replica: fair between callers."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator

from core.pool.records import Call


class WaitingLine:
    """First come, first served among the calls of a caller; the callers take turns.

    So a caller with a hundred calls does not keep one with a single call waiting for all of them.
    """

    def __init__(self) -> None:
        self._of: OrderedDict[str, deque[Call]] = OrderedDict()
        self._len = 0

    def __len__(self) -> int:
        return self._len

    def __iter__(self) -> Iterator[Call]:
        """The calls in the order of their turns: every caller's first, then every caller's second, and so on."""
        lines = [list(line) for line in self._of.values()]
        for place in range(max(map(len, lines), default=0)):
            yield from (line[place] for line in lines if place < len(line))

    def add(self, call: Call) -> None:
        """Put a call at the end of its caller's line."""
        self._of.setdefault(call.caller, deque()).append(call)
        self._len += 1

    def serve(self, call: Call) -> None:
        """Take out a call that has its turn; its caller's next one comes after those of all others."""
        if self.remove(call) and call.caller in self._of:
            self._of.move_to_end(call.caller)

    def remove(self, call: Call) -> bool:
        """Take out a call. Returns whether it was there."""
        line = self._of.get(call.caller)
        if line is None or call not in line:
            return False
        line.remove(call)
        self._len -= 1
        if not line:
            del self._of[call.caller]
        return True
