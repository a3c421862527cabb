"""One attempt at one replica."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from core.calls import Call
    from core.replicas.member import Member


class Lease:
    """A call's place at a replica, from the choice until the attempt is over."""

    __slots__ = ("_cancel", "began_s", "broken_off", "call", "heard_s", "is_silent", "member", "tokens")

    def __init__(self, call: Call, member: Member) -> None:
        self.call = call
        self.member = member
        self.began_s = self.heard_s = time.monotonic()
        self.tokens = 0
        self.broken_off = ""
        """Why the pool itself ended the attempt; empty where it did not."""
        self._cancel: Callable[[], object] | None = None
        self.is_silent: Callable[[], bool] | None = None
        """Asks the replica over the call's own connection; whether it does not answer. Takes seconds, in any thread."""

    def sent(self, cancel: Callable[[], object], is_silent: Callable[[], bool]) -> None:
        """The request is on its way; `cancel` ends it, from any thread."""
        self._cancel, self.is_silent = cancel, is_silent
        if self.broken_off:
            cancel()

    def hear(self, tokens: int) -> None:
        """Something has come."""
        self.heard_s = time.monotonic()
        self.tokens += tokens

    def break_off(self, why: str) -> None:
        """Ends the attempt because the replica is silent or going."""
        self.broken_off = why
        if self._cancel is not None:
            self._cancel()
