"""The replicas of a skill, and which of them gets a call: the least busy, or the one with a cached conversation."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from typing import Any

from core.pool.latency import Fastest
from core.pool.records import Attempt, Call, Replica


class Roster:
    """The replicas at the targets, and those that are no longer there but still have calls.

    Args:
        replicas: Initial replicas, with different targets.
        changing: Whether the targets may change.
    """

    def __init__(self, replicas: Iterable[Replica], *, changing: bool = False) -> None:
        self.replicas = list(replicas)
        """The replicas at the targets."""
        self._leaving: list[Replica] = []
        self._changing = changing

    @property
    def target(self) -> str:
        """The addresses, comma-separated."""
        return ",".join(replica.target for replica in self.replicas)

    @property
    def has_choice(self) -> bool:
        """Whether there is more than one replica, or there may be."""
        return self._changing or len(self.replicas) > 1

    def update(self, targets: Sequence[str]) -> list[Replica]:
        """Change to these targets, and return the replicas that leave, which finish their calls."""
        there = {replica.target for replica in self.replicas}
        leaving = [replica for replica in self.replicas if replica.target not in targets]
        for replica in leaving:
            replica.leaving = True
        # The name is right, and the servers at its new addresses may just be starting.
        known = any(replica.known for replica in self.replicas)
        new = [Replica(target, known=known) for target in targets if target not in there]
        self._leaving += leaving
        self.replicas = [replica for replica in self.replicas if not replica.leaving] + new
        return leaving

    def with_calls(self) -> list[Replica]:
        """Return the replicas with running attempts, including those that are leaving."""
        self._leaving = [replica for replica in self._leaving if replica.attempts]
        return [replica for replica in (*self.replicas, *self._leaving) if replica.attempts]

    def attempts(self) -> Iterator[Attempt]:
        """Yield all running attempts."""
        for replica in self.with_calls():
            yield from tuple(replica.attempts)


PREFERRED_UNTIL = 2.0
"""A replica with a cached conversation is preferred up to this many times the work of the least busy one."""
REMEMBERED = 4096
UNREAD = 16
"""A call whose prompt is being read weighs as much as this many whose answers are being written: it takes nearly all of
a replica's steps, and the next prompt waits for it, while an answer takes a row of each step."""
MOVED_AFTER_S = 0.5
"""A call that has waited this long behind another prompt goes to a replica that reads none."""
_KEY_BYTES = 8


def choose(
    call: Call, replicas: Sequence[Replica], affinity: Affinity, now: float, *, unread: int = 1
) -> Replica | None:
    """Return the replica with the least outstanding work, or the one that has the conversation if it is hardly busier.

    Among equally busy ones the conversation decides, by rendezvous hashing: so equal requests of callers that know
    nothing of each other meet at the same replica, which computes their answer once.

    Args:
        call: It needs a replica.
        replicas: Those to choose from.
        affinity: Where conversations are.
        now: Seconds on the monotonic clock.
        unread: Weight of a call without a first token, among calls that have one: `UNREAD`, or 1 if calls have no
            tokens.

    Returns:
        None if none of them takes calls.
    """
    open_ = [replica for replica in replicas if replica.takes_calls(now)]
    if not open_:
        return None
    open_ = [replica for replica in open_ if replica.reads(call, now)] or open_
    well = [replica for replica in open_ if not replica.ejected(now)]
    # If fewer than half are well, failures are common to all, and ejection does not help (Envoy's panic threshold).
    if 2 * len(well) >= len(replicas):
        open_ = well
    if len(open_) == 1:
        return open_[0]
    fastest = Fastest(replica.latency(call.method) for replica in open_)
    expected = {replica: replica.expected(call.method, now, fastest, unread=unread) for replica in open_}
    work = min(expected.values())
    least = _rendezvous(call, [replica for replica in open_ if expected[replica] == work])
    holder = affinity.find(call.conversation)
    # Calls of one conversation share the reading of its prompt, so here all calls weigh the same.
    if holder in expected and holder.expected(call.method, now, fastest) <= PREFERRED_UNTIL * least.expected(
        call.method, now, fastest
    ):
        return holder
    return least


def _rendezvous(call: Call, replicas: Sequence[Replica]) -> Replica:
    """Return the same one for the same conversation in every process; when one leaves, only its share moves."""
    if len(replicas) == 1 or not call.conversation:
        return replicas[0]
    key = call.conversation[-1].to_bytes(_KEY_BYTES, "big")
    return max(replicas, key=lambda replica: _digest(key, replica.target.encode()))


def _behind(replica: Replica, now: float) -> Iterator[Attempt]:
    """Yield the calls of a replica that wait behind another prompt, and not for the answer to the same question."""
    unread = replica.unread
    for number, attempt in enumerate(unread):
        question = attempt.call.conversation
        shared = bool(question) and any(other.call.conversation == question for other in unread[:number])
        stays = attempt.call.moved or attempt.hedge or attempt.hedged
        if number and not shared and not stays and now - attempt.began_s >= MOVED_AFTER_S:
            yield attempt


def misplaced(replicas: Sequence[Replica], now: float) -> tuple[Attempt, Replica] | None:
    """Return a call that waits behind another prompt, and a replica that reads none; None if there is no such pair.

    New replicas and those that have read what they had would help only later calls otherwise. It is the newest call of
    the replica with most prompts, so that what has been read of it is little or nothing. Each call moves once at most.
    """
    free = [each for each in replicas if each.takes_calls(now) and not each.ejected(now) and not each.unread]
    waiting = [attempt for replica in replicas for attempt in _behind(replica, now)]
    if not free or not waiting:
        return None
    attempt = max(waiting, key=lambda each: (len(each.replica.unread), each.began_s))
    free = [each for each in free if each.reads(attempt.call, now)]
    return (attempt, min(free, key=lambda each: len(each.attempts))) if free else None


def choose_rival(call: Call, replicas: Sequence[Replica], now: float) -> Replica | None:
    """Return the replica for a hedge: the least busy of the others, if possible one that the call has not failed at."""
    assert call.attempt is not None
    first = call.attempt.replica
    others = [
        each for each in replicas
        if each is not first and each.takes_calls(now) and not each.ejected(now) and each.reads(call, now)
    ]  # fmt: skip
    return min(others, key=lambda each: (each.target in call.tried, len(each.attempts)), default=None)


def conversation_keys(request: Any) -> list[int]:
    """Return a hash of each prefix of the request's conversation, the shortest first; empty if it has none.

    They are the same in every process, which Python's own `hash` is not. Requests with a common prefix share its
    hashes, provided their images are hashes too (`RequestImages.request`). A collision only costs a prefill, as all
    replicas would give the same answer.
    """
    turns = [
        (turn.role.encode(), turn.content.encode(), *(part.SerializeToString() for part in turn.parts))
        for turn in getattr(request, "messages", ())
    ]
    prompt = getattr(request, "prompt", "")
    if prompt:
        turns.append((b"user", prompt.encode()))
    system = getattr(request, "system", "")
    if system:
        turns.insert(0, (b"system", system.encode()))
    keys: list[int] = []
    digest = b""
    for turn in turns:
        digest = _digest(digest, *turn)
        keys.append(int.from_bytes(digest, "big"))
    return keys


def _digest(*parts: bytes) -> bytes:
    """Return a hash of a list, which depends on where its parts begin and end."""
    lengths = b"".join([len(part).to_bytes(8, "big") for part in parts])
    return blake2b(lengths + b"".join(parts), digest_size=_KEY_BYTES).digest()


class Affinity:
    """Remembers by the beginnings of conversations where they ran last; the least recently used are forgotten."""

    def __init__(self) -> None:
        # With the number of losses by then: a further one loses its cache.
        self._replicas: OrderedDict[int, tuple[Replica, int]] = OrderedDict()

    def find(self, keys: Sequence[int]) -> Replica | None:
        """Return the replica that has the most of a conversation, None if none has any."""
        found = (self._replicas[key] for key in reversed(keys) if key in self._replicas)
        return next((replica for replica, losses in found if replica.losses == losses), None)

    def note(self, keys: Sequence[int], replica: Replica) -> None:
        """Record that a replica works on a conversation."""
        for key in keys:
            self._replicas[key] = (replica, replica.losses)
            self._replicas.move_to_end(key)
        while len(self._replicas) > REMEMBERED:
            self._replicas.popitem(last=False)

    def forget(self, replica: Replica) -> None:
        """Forget a replica that is leaving."""
        for key in [key for key, (holder, _) in self._replicas.items() if holder is replica]:
            del self._replicas[key]
