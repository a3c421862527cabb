"""One attempt at one replica."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from core.calls import Call
    from core.replicas.member import Member


class Takeover(NamedTuple):
    """A rival that spoke first, and has the call."""

    lease: Lease
    rpc: Any
    piece: Any
    """The first of the answer."""


class Lease:
    """A call's place at a replica, from the choice until the attempt is over.

    Where a replica lets its caller wait for the first piece, another one may be asked as well: its lease is the rival.
    Who of the two has the call is settled once: by the first piece of either, or by the end of the attempt.
    """

    __slots__ = (
        "_ask_rival", "_cancel", "_guard", "_rival", "_takeover", "began_s", "broken_off", "call", "heard_s",
        "is_silent", "longest_wait_s", "member", "settled", "tell_lost_end", "tokens",
    )  # fmt: skip

    def __init__(self, call: Call, member: Member) -> None:
        self.call = call
        self.member = member
        self.began_s = self.heard_s = time.monotonic()
        self.longest_wait_s = 0.0
        self.tokens = 0
        self.broken_off = ""
        """Why the pool itself ended the attempt; empty where it did not."""
        self._cancel: Callable[[], object] | None = None
        self.is_silent: Callable[[], bool] | None = None
        """Asks the replica over the call's own connection; whether it does not answer. Takes seconds, in any thread."""
        self.tell_lost_end: Callable[[], object] | None = None
        """Has the reader hear of an end that gRPC has lost; None where it loses none."""
        self.settled = False
        """Whether no rival can have the call any more."""
        self._ask_rival: Callable[[Lease], object] | None = None
        self._guard = threading.Lock()
        self._rival: Lease | None = None
        self._takeover: Takeover | None = None

    def sent(
        self,
        cancel: Callable[[], object],
        is_silent: Callable[[], bool],
        ask_rival: Callable[[Lease], object] | None = None,
        tell_lost_end: Callable[[], object] | None = None,
    ) -> None:
        """The request is on its way.

        Args:
            cancel: ends it, from any thread.
            is_silent: see the attribute.
            ask_rival: begins the same call at another replica, from any thread, and returns at once; None where it
                cannot be asked of two.
            tell_lost_end: see the attribute.
        """
        self._cancel, self.is_silent, self._ask_rival = cancel, is_silent, ask_rival
        self.tell_lost_end = tell_lost_end
        if self.broken_off:
            cancel()

    def hear(self, tokens: int) -> None:
        """Something has come."""
        now = time.monotonic()
        self.longest_wait_s = max(self.longest_wait_s, now - self.heard_s)
        self.heard_s = now
        self.tokens += tokens

    def break_off(self, why: str) -> None:
        """Ends the attempt because the replica is silent or going, or because another one was faster."""
        self.broken_off = why
        if self._cancel is not None:
            self._cancel()

    # --- the rival ---

    def can_race(self) -> bool:
        """Whether a rival may be asked."""
        return self._ask_rival is not None and self._rival is None and not self.settled

    def race(self, rival: Lease) -> bool:
        """Asks a rival as well. False: it is too late for that."""
        with self._guard:
            if self._ask_rival is None or self.settled:
                return False
            self._rival = rival
            self._ask_rival(rival)  # inside: until this is settled nobody takes a piece, so the request is the same
            return True

    def give_way(self, first: Takeover) -> bool:
        """The rival's first piece is there. Returns whether the rival has the call now; else it is too late."""
        with self._guard:
            if self.settled or self._takeover is not None:
                return False
            self._takeover = first
        self.break_off("another replica answered first")
        return True

    def settle(self) -> tuple[Takeover | None, Lease | None]:
        """Ends the race, if there is one: the rival that has won, and the one that has not."""
        with self._guard:
            first, rival = self._takeover, self._rival
            self.settled, self._takeover, self._rival = True, None, None
        return first, rival if first is None else None
