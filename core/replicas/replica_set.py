"""The replicas of one skill: chooses one for each attempt, learns from how it went, and lets callers wait."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from core.backends.address import AddressReplica
from core.errors import CallError, DeadlineError, OverloadedError, PoolClosedError, UnavailableError
from core.quiet_grpc import grpc
from core.replicas.affinity import Affinity
from core.replicas.lease import Lease
from core.replicas.member import Member
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

STRANGER_S = 1.5
STRANGER_ATTEMPTS = 5
"""What replicas get that never answered: they may come up just now, but most often the address is wrong."""
PREFERRED_UNTIL = 2.0
"""The replica that has the conversation is taken up to so much more work than the least busy one has."""
MAX_DEATHS = 2
"""A request that so many replicas died with is not tried at another one."""
_REPLICAS_FAULT = frozenset({grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.DATA_LOSS})
_REFUSALS = frozenset({"DRAINING", "LOADING", "ENGINE_GONE"})


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
        self._lock = threading.RLock()
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
            return sum(len(member.leases) for member in self._members) + len(self._line)

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
            for member in self._members:
                member.leaving = member.target not in targets
            self._members = [member for member in self._members if not member.leaving]
            self._members += [Member(AddressReplica(target, origin)) for target in targets if target not in there]
            self._dispatch()

    # --- a call gets a replica ---

    def enter(self, call: Call, wake: Callable[[], None]) -> Ticket:
        """A call asks for a replica; `poll` says whether it has got one.

        Raises:
            PoolClosedError: the set is closed.
            OverloadedError: too many wait already.
        """
        ticket = Ticket(call, wake)
        with self._lock:
            self._check_open()
            if not call.attempts:
                self.stats.calls += 1
                self._budget.call()
            if len(self._line) >= self.config.queue_limit:
                raise self._overloaded(call, f"{len(self._line)} calls wait for a replica already")
            self._line.add(ticket)
            self._dispatch()
        self._watcher.start()
        return ticket

    def poll(self, ticket: Ticket) -> float:
        """How long the caller of a ticket may sleep until it is woken or asks again; 0: it has got its lease.

        Raises:
            CallError: waiting makes no sense any more; the ticket is gone.
        """
        with self._lock:
            if ticket.lease is None:
                self._dispatch()
            if ticket.lease is not None:
                return 0.0
            try:
                self._check_open()
                return self._may_wait_s(ticket.call)
            except BaseException:
                self._line.remove(ticket)
                raise

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

    def _dispatch(self) -> None:
        """Serves whoever waits, as far as there are replicas."""
        now = time.monotonic()
        if not len(self._line) or not any(member.takes_calls(now) for member in self._members):
            return
        for ticket in list(self._line):
            if ticket.call.not_before_s > now:
                continue
            member = self._choose(ticket.call, now)
            if member is None:
                return
            self._line.serve(ticket)
            ticket.lease = self._lend(ticket.call, member)
            ticket.wake()

    def _choose(self, call: Call, now: float) -> Member | None:
        """The replica with the least outstanding work, or the one that has the conversation if it is hardly busier."""
        open_ = [member for member in self._members if member.takes_calls(now)]
        if not open_:
            return None
        well = [member for member in open_ if not member.ejected(now)]
        # Below half of them, failures are everybody's (Envoy's panic threshold), and leaving some out helps nobody.
        if 2 * len(well) >= len(self._members):
            open_ = well
        paces = [pace for member in open_ if (pace := member.pace_s(call.method, now)) > 0]
        best_pace_s = min(paces, default=0.0)
        expected = {member: member.expected(call.method, now, best_pace_s) for member in open_}
        least = min(open_, key=lambda member: expected[member])
        holder = self._affinity.find(call.conversation)
        if holder in expected and expected[holder] <= PREFERRED_UNTIL * expected[least]:
            return holder
        return least

    def _lend(self, call: Call, member: Member) -> Lease:
        lease = Lease(call, member)
        member.leases.add(lease)
        member.calls += 1
        member.replica.begin_use()
        self._affinity.note(call.conversation, member)
        self.stats.attempt(call, member)
        call.begin_attempt(member)
        return lease

    def _may_wait_s(self, call: Call) -> float:
        now = time.monotonic()
        remaining_s = call.remaining_s()
        opens_s = max(min((member.opens_s() for member in self._members), default=math.inf), call.not_before_s)
        if math.isfinite(opens_s):
            if opens_s - now >= remaining_s:  # it cannot be done in time: say so at once
                raise call.last_error or self._unavailable(call)
            return max(0.001, opens_s - now)
        known = any(member.known for member in self._members)
        gives_up_s = call.waiting_since_s + (self.config.recovery_s if known else STRANGER_S)
        if now >= gives_up_s or remaining_s <= 0:
            raise self._unavailable(call)
        return min(gives_up_s - now, remaining_s)

    # --- how an attempt went ---

    def heard(self, lease: Lease, tokens: int = 1) -> None:
        """Something has come from a replica; a piece of an answer has so many tokens."""
        first = not lease.tokens
        lease.hear(tokens)
        if first:
            with self._lock:
                lease.member.answers()

    def succeeded(self, lease: Lease) -> None:
        """A call ended well."""
        with self._lock:
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
            error = self._unavailable_at(member, lease.broken_off)
        with self._lock:
            self._learn(lease, error)
            self.release(lease)
            call.note_failure(member, error)
            self._check_retry(call, error)
            call.not_before_s = time.monotonic() + self._budget.spend()

    def _learn(self, lease: Lease, error: CallError) -> None:
        member = lease.member
        match error:
            case UnavailableError() if error.reason in _REFUSALS:
                member.answers()
                if error.reason == "DRAINING":
                    member.unwilling(error.details())
                    self._watcher.watch(member)
                else:
                    member.pause()
            case UnavailableError() if error.retry_after_s is not None:
                member.full(error.retry_after_s)
            case UnavailableError():
                gone = never_arrived(error.details())
                if not gone:
                    lease.call.breaks.append((member, member.deaths))
                member.pause()  # a server that only says so is UP again at once, and must not be asked at once
                self.lose(member, error.details(), gone=gone)
            case OverloadedError():
                member.answers()
                if error.retry_after_s is not None:
                    member.full(error.retry_after_s)
            case DeadlineError() if member.starts_itself and not lease.tokens:
                member.replica.lost = True  # perhaps it hangs: the next call looks
            case CallError() if error.code() in _REPLICAS_FAULT:
                member.failed()
            case _:
                pass

    def _check_retry(self, call: Call, error: CallError) -> None:
        """Raises the error where the call is not tried again."""
        if not call.can_go_on:
            raise error
        match error:
            case UnavailableError():
                self._check_patience(call, error)
                # Of the last one it is not known yet; it counts.
                deaths = sum(member.deaths > noted for member, noted in call.breaks[:-1]) + bool(call.breaks)
                if deaths >= MAX_DEATHS:
                    raise self._unavailable(call, f"{deaths} replicas died while they worked on it")
            case OverloadedError():
                now = time.monotonic()
                elsewhere = any(member.takes_calls(now) for member in self._members)
                if error.retry_after_s is None or (not elsewhere and error.retry_after_s >= call.remaining_s()):
                    raise error
            case _:
                raise error

    def _check_patience(self, call: Call, error: CallError) -> None:
        """Raises the error where the replicas have failed for too long."""
        known = any(member.known for member in self._members)
        too_long = time.monotonic() - (call.failing_since_s or math.inf) >= self.config.recovery_s
        if too_long if known else call.attempts >= STRANGER_ATTEMPTS:
            raise error

    # --- health ---

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

    def _overloaded(self, call: Call, why: str) -> CallError:
        return OverloadedError(
            code=grpc.StatusCode.RESOURCE_EXHAUSTED,
            details=why,
            skill=self.spec.name,
            target=self.target,
            retry_after_s=call.last_error.retry_after_s if call.last_error else None,
        )

    def _unavailable_at(self, member: Member, why: str) -> CallError:
        return UnavailableError(
            code=grpc.StatusCode.UNAVAILABLE, details=why, skill=self.spec.name, target=member.target
        )

    def _unavailable(self, call: Call, why: str = "") -> CallError:
        """The error that says which replicas were tried and what each of them said."""
        if not why and len(self._members) == 1 and call.last_error is not None:
            return call.last_error
        said = {member.target: member.why_down for member in self._members if member.why_down} | call.tried
        each = "; ".join(f"{target}: {reason}" for target, reason in said.items())
        return UnavailableError(
            code=grpc.StatusCode.UNAVAILABLE,
            details=f"{why or 'no replica answers'} ({each})" if each else why or "no replica answers",
            skill=self.spec.name,
            target=self.target,
        )
