"""Who is among the replicas of a skill, and which of them gets a call.

That is the least busy one, or the one that has the conversation in its prefix cache.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from core.pool.pace import Fastest
from core.pool.records import Attempt, Call, Replica


class Roster:
    """The replicas at the targets, and those that are no longer there but still have calls.

    Args:
        replicas: those at the beginning; their targets differ.
        changing: whether the targets may change.
    """

    def __init__(self, replicas: Iterable[Replica], *, changing: bool = False) -> None:
        self.replicas = list(replicas)
        """Those at the targets."""
        self._leaving: list[Replica] = []
        self._changing = changing

    @property
    def target(self) -> str:
        """The addresses, separated by commas."""
        return ",".join(replica.target for replica in self.replicas)

    @property
    def has_choice(self) -> bool:
        """Whether there is more than one replica, or may be."""
        return self._changing or len(self.replicas) > 1

    def update(self, targets: Sequence[str]) -> list[Replica]:
        """Go over to these targets. Returns the replicas that leave; they finish what they have."""
        there = {replica.target for replica in self.replicas}
        leaving = [replica for replica in self.replicas if replica.target not in targets]
        for replica in leaving:
            replica.leaving = True
        # The name is right; who stands behind it now may come up just now.
        known = any(replica.known for replica in self.replicas)
        new = [Replica(target, known=known) for target in targets if target not in there]
        self._leaving += leaving
        self.replicas = [replica for replica in self.replicas if not replica.leaving] + new
        return leaving

    def with_calls(self) -> list[Replica]:
        """The replicas that attempts run at, those that are leaving too."""
        self._leaving = [replica for replica in self._leaving if replica.attempts]
        return [replica for replica in (*self.replicas, *self._leaving) if replica.attempts]

    def attempts(self) -> Iterator[Attempt]:
        """All that run."""
        for replica in self.with_calls():
            yield from tuple(replica.attempts)


PREFERRED_UNTIL = 2.0
"""The replica that has the conversation is taken until it has this many times the work of the least busy one."""
REMEMBERED = 4096


def choose(call: Call, replicas: Sequence[Replica], affinity: Affinity, now: float) -> Replica | None:
    """The replica with the least outstanding work, or the one that has the conversation if it is hardly busier.

    None where none of them takes calls.
    """
    open_ = [replica for replica in replicas if replica.takes_calls(now)]
    if not open_:
        return None
    well = [replica for replica in open_ if not replica.ejected(now)]
    # Below half of them, failures are everybody's (Envoy's panic threshold), and leaving some out helps nobody.
    if 2 * len(well) >= len(replicas):
        open_ = well
    if len(open_) == 1:
        return open_[0]
    fastest = Fastest(replica.pace(call.method) for replica in open_)
    expected = {replica: replica.expected(call.method, now, fastest) for replica in open_}
    least = min(open_, key=lambda replica: expected[replica])
    holder = affinity.find(call.conversation)
    if holder in expected and expected[holder] <= PREFERRED_UNTIL * expected[least]:
        return holder
    return least


def choose_rival(call: Call, replicas: Sequence[Replica], now: float) -> Replica | None:
    """The replica that is asked as well: the least busy of the others, at best one that the call has not failed at."""
    assert call.attempt is not None
    first = call.attempt.replica
    others = [each for each in replicas if each is not first and each.takes_calls(now) and not each.ejected(now)]
    return min(others, key=lambda each: (each.target in call.tried, len(each.attempts)), default=None)


def conversation_keys(request: Any) -> list[int]:
    """A number for each beginning of the request's conversation, the shortest first; none where it has none.

    Two requests that begin alike share the numbers of what they share. A collision costs a prefill, nothing else: they
    only choose among replicas that would all give the same answer.
    """
    turns = [(turn.role, turn.content) for turn in getattr(request, "messages", ())]
    prompt = getattr(request, "prompt", "")
    if prompt:
        turns.append(("user", prompt))
    system = getattr(request, "system", "")
    if system:
        turns.insert(0, ("system", system))
    keys: list[int] = []
    for turn in turns:
        keys.append(hash((keys[-1] if keys else 0, turn)))
    return keys


class Affinity:
    """Remembers by the beginnings of conversations where they were last; the least recently used are forgotten."""

    def __init__(self) -> None:
        # With how often it had been lost by then: after that its cache is gone.
        self._replicas: OrderedDict[int, tuple[Replica, int]] = OrderedDict()

    def find(self, keys: Sequence[int]) -> Replica | None:
        """The replica that has the most of a conversation."""
        found = (self._replicas[key] for key in reversed(keys) if key in self._replicas)
        return next((replica for replica, losses in found if replica.losses == losses), None)

    def note(self, keys: Sequence[int], replica: Replica) -> None:
        """Remember that a replica works on a conversation now."""
        for key in keys:
            self._replicas[key] = (replica, replica.losses)
            self._replicas.move_to_end(key)
        while len(self._replicas) > REMEMBERED:
            self._replicas.popitem(last=False)

    def forget(self, replica: Replica) -> None:
        """Keep nothing of a replica that is leaving."""
        for key in [key for key, (holder, _) in self._replicas.items() if holder is replica]:
            del self._replicas[key]
