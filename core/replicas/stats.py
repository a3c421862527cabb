"""Counts of what a pool did for its callers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from core.calls import Call
    from core.replicas.member import Member


@dataclass(slots=True)
class CallStats:
    """Calls, and how often they went out."""

    calls: int = 0
    """Calls that callers made."""
    attempts: int = 0
    """Requests that were sent for them."""
    retries: int = 0
    """Further attempts at the same replica."""
    failovers: int = 0
    """Further attempts at another replica."""
    hedges: int = 0
    """Attempts at another replica while the first one still had time."""

    def attempt(self, call: Call, member: Member, *, hedge: bool) -> None:
        """An attempt of a call goes to a member."""
        self.attempts += 1
        if hedge:
            self.hedges += 1
        elif call.last_member is member:
            self.retries += 1
        elif call.last_member is not None:
            self.failovers += 1
