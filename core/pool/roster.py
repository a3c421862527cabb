"""Who is among the replicas of a skill, and who is leaving."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from core.pool.records import Attempt, Replica


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
