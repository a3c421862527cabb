"""Which replica gets a call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from core.replicas.pace import Fastest

if TYPE_CHECKING:
    from core.calls import Call
    from core.replicas.affinity import Affinity
    from core.replicas.member import Member

PREFERRED_UNTIL = 2.0
"""The replica that has the conversation is taken up to so much more work than the least busy one has."""


def choose(call: Call, members: Sequence[Member], affinity: Affinity, now: float) -> Member | None:
    """The replica with the least outstanding work, or the one that has the conversation if it is hardly busier.

    None where none of them takes calls. The set's lock is held.
    """
    open_ = [member for member in members if member.takes_calls(now)]
    if not open_:
        return None
    well = [member for member in open_ if not member.ejected(now)]
    # Below half of them, failures are everybody's (Envoy's panic threshold), and leaving some out helps nobody.
    if 2 * len(well) >= len(members):
        open_ = well
    if len(open_) == 1:
        return open_[0]
    fastest = Fastest(member.pace(call.method) for member in open_)
    expected = {member: member.expected(call.method, now, fastest) for member in open_}
    least = min(open_, key=lambda member: expected[member])
    holder = affinity.find(call.conversation)
    if holder in expected and expected[holder] <= PREFERRED_UNTIL * expected[least]:
        return holder
    return least


def choose_rival(call: Call, members: Sequence[Member], first: Member, now: float) -> Member | None:
    """The replica that is asked as well: the least busy of the others, best one that the call has not failed at."""
    others = [each for each in members if each is not first and each.takes_calls(now) and not each.ejected(now)]
    return min(others, key=lambda each: (each.target in call.tried, len(each.leases)), default=None)
