"""The replicas of one skill: lends one for each attempt, keeps count of how it went, and lets callers wait.

Who is chosen is decided in `core.replicas.choice`, what a failure means in `core.replicas.outcomes`.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from core.backends.address import AddressReplica
from core.errors import CallError, PoolClosedError
from core.replicas.affinity import Affinity
from core.replicas.choice import choose, choose_rival
from core.replicas.lease import Lease, Takeover
from core.replicas.member import Member
from core.replicas.outcomes import check_retry, learn, may_wait_s
from core.replicas.refusals import given_up, line_is_full, unavailable_at
from core.replicas.retry_budget import RetryBudget
from core.replicas.stats import CallStats
from core.replicas.status import SkillStatus
from core.replicas.waiting_line import Ticket, WaitingLine
from core.replicas.watcher import Watcher
from core.rpc_status import never_arrived

if TYPE_CHECKING:
    from core.backends import Origin, Replica
    from core.calls import Call
    from core.config import PoolConfig
    from core.skill import SkillSpec


class ReplicaSet:
    """The replicas of a skill and the calls that run there or wait. Thread-safe; shared by sync and async clients.

    Args:
        spec: the skill.
        config: the pool's settings.
        replicas: those that are there at the beginning.
        look: finds the targets that are there now; None where they do not change.
    """

    def __init__(
        self,
        spec: SkillSpec,
        config: PoolConfig,
        replicas: Iterable[Replica],
        look: Callable[[], Sequence[str]] | None = None,
    ) -> None:
        self.spec = spec
        self.config = config
        self.stats = CallStats()
        self._members = [Member(replica) for replica in replicas]
        self._leaving: list[Member] = []
        """Replicas that are not among the targets any more, and still have calls."""
        self._lock = threading.RLock()
        self._forgotten: deque[Lease] = deque()
        self._line = WaitingLine()
        self._affinity = Affinity()
        self._budget = RetryBudget()
        self._closed = False
        self._watcher = Watcher(self, look)

    # --- who is in it ---

    @property
    def members(self) -> tuple[Member, ...]:
        """The replicas of now."""
        with self._lock:
            return tuple(self._members)

    @property
    def target(self) -> str:
        """The addresses, with commas between."""
        return ",".join(member.target for member in self.members)

    @property
    def origin(self) -> Origin:
        """Where the addresses come from; the same for all."""
        return self.members[0].replica.origin

    @property
    def lost(self) -> bool:
        """Whether nobody answers any more."""
        return all(member.down for member in self.members)

    @property
    def outstanding(self) -> int:
        """Calls that run or wait."""
        with self._lock:
            self._take_back()
            return sum(len(member.leases) for member in self.with_calls) + len(self._line)

    @property
    def with_calls(self) -> tuple[Member, ...]:
        """The replicas that calls run at, those that are leaving too."""
        with self._lock:
            self._leaving = [member for member in self._leaving if member.leases]
            return tuple(member for member in (*self._members, *self._leaving) if member.leases)

    @property
    def waiting(self) -> int:
        """Calls that wait for a replica."""
        with self._lock:
            return len(self._line)

    def update(self, targets: Sequence[str]) -> None:
        """These are the targets now. Those that are gone finish what they have; none at all changes nothing."""
        with self._lock:
            if not targets or self._closed:
                return
            origin = self.origin
            there = {member.target for member in self._members}
            known = any(member.known for member in self._members)
            for member in self._members:
                member.leaving = member.target not in targets
            leaving = [member for member in self._members if member.leaving]
            self._leaving += leaving
            self._members = [member for member in self._members if not member.leaving]
            new = [Member(AddressReplica(target, origin)) for target in targets if target not in there]
            for member in new:
                member.known = known  # the name is right; who stands behind it now may come up just now
            self._members += new
            for member in leaving:
                self._affinity.forget(member)
                self._watcher.unwatch(member)
            self._dispatch()

    # --- a call gets a replica ---

    def enter(self, call: Call, wake: Callable[[], None]) -> Ticket:
        """A call asks for a replica; `poll` says whether it has got one.

        Raises:
            PoolClosedError: the set is closed.
            OverloadedError: too many wait already.
        """
        ticket = Ticket(call, wake)
        call.wake = wake
        with self._lock:
            self._check_open()
            self._take_back()
            if not call.attempts:
                self.stats.calls += 1
                self._budget.call()
            if len(self._line) >= self.config.queue_limit:
                raise line_is_full(self, call)
            self._line.add(ticket)
            self._dispatch()
        self._watcher.start()
        return ticket

    def poll(self, ticket: Ticket) -> float:
        """How long the caller of a ticket may sleep until it is woken or asks again; 0: it has got its lease.

        Raises:
            CallError: waiting makes no sense any more.
        """
        with self._lock:
            self._take_back()
            if ticket.call.given_up:
                raise given_up(self)
            if ticket.lease is None:
                self._dispatch()
            if ticket.lease is not None:
                return 0.0
            self._check_open()
            return may_wait_s(self, ticket.call)

    def leave(self, ticket: Ticket) -> None:
        """The caller of a ticket does not want to wait any longer."""
        with self._lock:
            self._line.remove(ticket)
            if ticket.lease is not None:
                self.release(ticket.lease)

    def release(self, lease: Lease) -> None:
        """An attempt is over, however it went. Again does nothing."""
        with self._lock:
            if lease in lease.member.leases:
                lease.member.leases.discard(lease)
                lease.member.replica.end_use()
                self._dispatch()

    def abandon(self, lease: Lease) -> None:
        """The caller wants nothing more of an attempt, nor of a rival that was faster just now. Idempotent."""
        if (first := self.settle(lease)) is not None:
            first.lease.break_off("its caller has left")
            self.release(first.lease)
        if lease.call.is_whole:  # left at its result, before the stream's end
            self.succeeded(lease)
        else:
            self.release(lease)

    def abandon_all(self, owner: object) -> None:
        """Abandons what a client that is closed has: nobody may ever read on, and nobody is to wait."""
        with self._lock:
            waiting = [ticket.call for ticket in self._line if ticket.call.owner is owner]
            leases = [lease for member in self.with_calls for lease in member.leases if lease.call.owner is owner]
        for call in waiting:
            call.give_up()
        for lease in leases:
            self.abandon(lease)

    def forget(self, lease: Lease) -> None:
        """Abandons an attempt soon: at the next call, or at the watcher's next tick.

        For the garbage collector, which may run in the midst of any method of this set, in the same thread: all that is
        done here is one append.
        """
        self._forgotten.append(lease)

    def _take_back(self) -> None:
        """Abandons what was forgotten."""
        while self._forgotten:
            self.abandon(self._forgotten.popleft())

    def _dispatch(self) -> None:
        """Serves whoever waits, as far as there are replicas."""
        now = time.monotonic()
        if not len(self._line) or not any(member.takes_calls(now) for member in self._members):
            return
        for ticket in list(self._line):
            if ticket.call.not_before_s > now:
                continue
            member = choose(ticket.call, self._members, self._affinity, now)
            if member is None:
                return
            self._line.serve(ticket)
            ticket.lease = self._lend(ticket.call, member)
            ticket.wake()

    def _lend(self, call: Call, member: Member, *, hedge: bool = False) -> Lease:
        lease = Lease(call, member)
        member.leases.add(lease)
        member.calls += 1
        member.replica.begin_use()
        self.stats.attempt(call, member, hedge=hedge)
        if not hedge:
            self._affinity.note(call.conversation, member)
            call.begin_attempt(member)
        return lease

    # --- how an attempt went ---

    def heard(self, lease: Lease, tokens: int = 1) -> None:
        """Something has come from a replica; a piece of an answer has so many tokens."""
        first = not lease.tokens
        lease.hear(tokens)
        if first:
            with self._lock:
                lease.member.answers()

    def succeeded(self, lease: Lease) -> None:
        """A call ended well. Again does nothing."""
        with self._lock:
            if lease in lease.member.leases:
                lease.member.answers()
                lease.member.succeeded(lease)
                self.release(lease)

    def failed(self, lease: Lease, error: CallError) -> None:
        """An attempt failed. Returns where the call is to be tried again.

        Raises:
            CallError: it is not, and this is why the call fails.
        """
        call, member = lease.call, lease.member
        if lease.broken_off:
            error = unavailable_at(self, member, lease.broken_off)
        with self._lock:
            learn(self, lease, error)
            self.release(lease)
            call.note_failure(member, error)
            check_retry(self, call, error)
            call.not_before_s = time.monotonic() + self._budget.spend(call.remaining_s())

    # --- the tail ---

    def hedge(self) -> None:
        """Asks another replica as well for each answer of which nothing has come for too long, while there is budget.

        The rival's request is the same, so its answer is too, and whoever speaks first has the call.
        """
        with self._lock:
            races = list(self._races())
        for lease, rival in races:
            if not lease.race(rival):
                self.release(rival)

    def _races(self) -> Iterator[tuple[Lease, Lease]]:
        now = time.monotonic()
        waiting = [lease for member in self._members for lease in member.leases if lease.can_race()]
        for lease in waiting:
            if now - lease.began_s < self.config.hedge_s:
                continue
            rival = choose_rival(lease.call, self._members, lease.member, now)
            if rival is None or not self._budget.has_credit:
                return
            self._budget.spend()
            yield lease, self._lend(lease.call, rival, hedge=True)

    def settle(self, lease: Lease) -> Takeover | None:
        """Something of an attempt has come, or it has ended: the rival that was faster, if one was.

        The attempt is over then, and what it has taken is how slow its replica is at least.
        """
        first, loser = lease.settle()
        if loser is not None:
            loser.break_off("another replica answered first")
            self.release(loser)
        if first is not None:
            with self._lock:
                lease.member.note_pace(lease)
                self._affinity.note(lease.call.conversation, first.lease.member)
                lease.call.last_member = first.lease.member
                self.release(lease)
        return first

    def rival_failed(self, rival: Lease, error: CallError) -> None:
        """A rival has failed: that is no matter of its call."""
        if not rival.broken_off:
            with self._lock:
                learn(self, rival, error)

    # --- health ---

    def follow(self, member: Member) -> None:
        """Follows the health of a replica that is away, until it is back."""
        self._watcher.watch(member)

    def lose(self, member: Member, why: str, *, gone: bool) -> None:
        """Nobody answers at a replica: its calls go on elsewhere, and its health is followed until it is back."""
        with self._lock:
            member.lose(why, gone=gone)
            if member.starts_itself:
                return
            self._affinity.forget(member)
        self._watcher.watch(member)

    def silent(self, member: Member, why: str) -> None:
        """A replica is connected and does not answer: as if it were lost, and its running calls are broken off."""
        self.lose(member, why, gone=False)
        self.break_off(member, why)

    def break_off(self, member: Member, why: str, *, silent_since_s: float = math.inf) -> None:
        """Ends the calls that have heard nothing for so long, so that they go on; further ones connect anew."""
        with self._lock:
            member.generation += 1
            leases = [lease for lease in member.leases if lease.heard_s <= silent_since_s]
        for lease in leases:
            lease.break_off(why)

    def health(self, member: Member, serving: bool, why: str) -> None:
        """What a replica says of itself; where it says nothing, `why` it does not."""
        with self._lock:
            if serving:
                member.serves()
            elif why:
                member.lose(why, gone=never_arrived(why))
            else:
                member.unwilling("it says that it does not serve now")
            self._dispatch()
            for ticket in self._line:  # how long to wait is another matter now
                ticket.wake()

    def status(self) -> SkillStatus:
        """How the replicas are."""
        with self._lock:
            now = time.monotonic()
            return SkillStatus(
                skill=self.spec.name,
                origin=self.origin,
                waiting=len(self._line),
                calls=self.stats.calls,
                attempts=self.stats.attempts,
                failovers=self.stats.failovers,
                replicas=tuple(member.status(now) for member in self._members),
            )

    # --- the end ---

    def close(self) -> None:
        """Nobody gets a replica any more; whoever waits is told. Again does nothing."""
        with self._lock:
            self._closed = True
            waiting = list(self._line)
        for ticket in waiting:
            ticket.wake()
        self._watcher.close()
        for member in self.members:
            member.replica.close()

    def _check_open(self) -> None:
        if self._closed:
            raise PoolClosedError(f"the pool of skill {self.spec.name!r} is closed; get_model_pool() gives another one")
