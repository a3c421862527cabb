"""Who waits for a replica: a bounded line, fair between callers."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from core.calls import Call
    from core.replicas.lease import Lease


class Ticket:
    """A call that waits, or has been served.

    Args:
        call: the call.
        wake: tells the waiting caller, from any thread, that something has changed.
    """

    __slots__ = ("call", "lease", "wake")

    def __init__(self, call: Call, wake: Callable[[], None]) -> None:
        self.call = call
        self.wake = wake
        self.lease: Lease | None = None


class WaitingLine:
    """First come, first served among the calls of a caller; the callers take turns.

    So a caller with a hundred calls does not keep one with a single call waiting for all of them.
    """

    def __init__(self) -> None:
        self._of: OrderedDict[str, deque[Ticket]] = OrderedDict()
        self._len = 0

    def __len__(self) -> int:
        return self._len

    def __iter__(self) -> Iterator[Ticket]:
        """The tickets as they would be served: every caller's first, then every caller's second, and so on."""
        lines = [list(line) for line in self._of.values()]
        for place in range(max(map(len, lines), default=0)):
            yield from (line[place] for line in lines if place < len(line))

    def add(self, ticket: Ticket) -> None:
        """Someone comes."""
        self._of.setdefault(ticket.call.caller, deque()).append(ticket)
        self._len += 1

    def serve(self, ticket: Ticket) -> None:
        """Someone is served; the caller's next call comes after those of all others."""
        if self.remove(ticket) and ticket.call.caller in self._of:
            self._of.move_to_end(ticket.call.caller)

    def remove(self, ticket: Ticket) -> bool:
        """Someone goes. Returns whether he was there."""
        line = self._of.get(ticket.call.caller)
        if line is None or ticket not in line:
            return False
        line.remove(ticket)
        self._len -= 1
        if not line:
            del self._of[ticket.call.caller]
        return True
