"""The pool of one skill as a state machine: an event with its time in, actions out. No I/O, no lock, no clock.

It decides which replica gets a call, which calls wait and in what order, what a failure means for a replica, whether
and when to retry a call, which replicas to eject, when to hedge, and which replicas to watch or probe.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from core.errors import CallError, PoolClosedError, SaraiError
from core.pool import events
from core.pool.balance import UNREAD, Affinity, Roster, choose, choose_rival, misplaced
from core.pool.events import Action, Event
from core.pool.records import Attempt, Call, Replica
from core.pool.rpc_status import never_arrived
from core.pool.status import CallStats
from core.pool.verdicts import Outlook, learn, lose
from core.pool.waiting import RetryBudget, WaitingLine

if TYPE_CHECKING:
    from core.config import PoolConfig

TICK_S = 0.25
"""While calls run, `Tick` must come this often."""
SILENT_S = 2.0
"""If a call has been silent for this long, its replica is probed."""


class PoolState:
    """The replicas of a skill, and its running and waiting calls.

    Args:
        skill: The skill's name.
        config: The pool's settings.
        replicas: The initial replicas, with different targets.
        changing: Whether the targets may change.
    """

    def __init__(self, skill: str, config: PoolConfig, replicas: Iterable[Replica], *, changing: bool = False) -> None:
        self.roster = Roster(replicas, changing=changing)
        self.stats = CallStats()
        self.line = WaitingLine()
        self.due_s = math.inf
        """When the next `Tick` must come."""
        self._skill = skill
        self._config = config
        self._affinity = Affinity()
        self._budget = RetryBudget()
        self._started = self._closed = False
        self._resumes = False
        """Whether answers come token by token. Other calls have no first token that tells that a prompt is read."""
        self._actions: list[Action] = []

    @property
    def outstanding(self) -> int:
        """Number of calls that run or wait; a hedged call counts twice."""
        return sum(1 for _ in self.roster.attempts()) + len(self.line)

    def on(self, event: Event, now: float) -> list[Action]:  # noqa: C901  # one line for each kind of event
        """Process an event; return the actions to carry out, in order."""
        self._actions = []
        match event:
            case events.Heard(attempt, tokens, resumable):
                if not attempt.over:
                    attempt.call.resumable = resumable
                    self._resumes |= resumable and tokens > 0
                    self._hear(attempt, tokens, now)
            case events.Succeeded(attempt, tokens):
                self._on_succeeded(attempt, tokens, now)
            case events.Asked(call):
                self._on_asked(call, now)
            case events.Failed(attempt, error):
                self._fail_attempt(attempt, error, now)
                self._serve(now)
            case events.Left(call):
                self._on_left([call], now)
            case events.ClientClosed(owner):
                self._on_left([call for call in self._calls() if call.owner is owner], now)
            case events.HealthTold():
                self._on_health(event, now)
            case events.Probed():
                self._on_probed(event, now)
            case events.Targets(targets):
                self._on_targets(targets, now)
            case events.Tick():
                self._on_tick(now)
            case events.Closed():
                self._on_closed()
        return self._actions

    # --- assigning replicas ---

    def _on_asked(self, call: Call, now: float) -> None:
        call.waiting_since_s = now
        self.stats.calls += 1
        self._budget.call()
        if not self._started and self.roster.has_choice:
            self._watch_all()
        self._started = True
        self._wait(call, now)

    def _wait(self, call: Call, now: float) -> None:
        if self._closed:
            self._fail(call, self._closed_error())
            return
        self.line.add(call)
        self._serve(now)
        if len(self.line) > self._config.queue_limit and self.line.remove(call):
            self._fail(call, self._outlook(now).line_is_full(call, len(self.line)))

    def _serve(self, now: float) -> None:
        """Assign available replicas to waiting calls; fail those for which waiting is pointless."""
        if len(self.line) and any(replica.takes_calls(now) for replica in self.roster.replicas):
            self._dispatch(now)
        if not len(self.line):
            return
        outlook = self._outlook(now)
        for call in list(self.line):
            verdict = outlook.waits_until(call)
            if isinstance(verdict, CallError):
                self.line.remove(call)
                self._fail(call, verdict)
            else:
                self.due_s = min(self.due_s, verdict)

    def _dispatch(self, now: float) -> None:
        for call in list(self.line):
            if call.not_before_s > now:
                continue
            unread = UNREAD if self._resumes else 1
            replica = choose(call, self.roster.replicas, self._affinity, now, unread=unread)
            if replica is None:
                return
            self.line.serve(call)
            self._begin(call, replica, now)

    def _begin(self, call: Call, replica: Replica, now: float, *, hedge: bool = False) -> None:
        attempt = Attempt(call, replica, now, hedge=hedge)
        replica.attempts[attempt] = None
        replica.calls += 1
        self.stats.attempt(call, replica, hedge=hedge)
        if hedge:
            assert call.attempt is not None
            call.rival, call.attempt.hedged = attempt, True
        else:
            call.attempt, call.last_replica = attempt, replica
            call.num_attempts += 1
            self._affinity.note(call.conversation, replica)
            if self._config.hedge_s and call.race is not None:
                self.due_s = min(self.due_s, now + self._config.hedge_s)
        self.due_s = min(self.due_s, now + TICK_S)
        self._actions.append(events.Begin(attempt))

    # --- attempts ---

    def _hear(self, attempt: Attempt, tokens: int, now: float) -> None:
        first = not attempt.tokens
        attempt.hear(tokens, now)
        if first:
            attempt.replica.answer()
            self._settle(attempt, now)

    def _settle(self, winner: Attempt, now: float) -> None:
        """Continue the call with the first attempt to respond; the other one's duration is its least latency."""
        call = winner.call
        loser = call.rival if winner is call.attempt else call.attempt
        if winner is not call.attempt and loser is not None:
            loser.replica.note_latency(loser, now)
            self._affinity.note(call.conversation, winner.replica)
            call.last_replica = winner.replica
        call.attempt, call.rival = winner, None
        if loser is not None:
            self._end(loser, "another replica answered first")
            self._serve(now)

    def _on_succeeded(self, attempt: Attempt, tokens: int, now: float) -> None:
        if attempt.over:
            return
        self._hear(attempt, tokens, now)
        attempt.replica.answer()
        attempt.replica.succeed(attempt, now)
        attempt.call.over, attempt.call.race = True, None
        self._end(attempt)
        self._serve(now)

    def _fail_attempt(self, attempt: Attempt, error: CallError, now: float, why_over: str = "") -> None:
        if attempt.over:
            return
        call = attempt.call
        if (action := learn(attempt, error, now)) is not None:
            self._actions.append(action)
        self._end(attempt, why_over)
        if attempt is call.rival:
            call.rival = None  # this does not affect its call
            return
        if call.rival is not None:
            self._end(call.rival, "the attempt that it was to help has failed")
        call.attempt = call.rival = None
        call.note_failure(attempt.replica, error, now)
        final = self._outlook(now).why_final(call, error)
        if final is not None:
            self._fail(call, final)
            return
        call.not_before_s = now + self._budget.spend(now, call.remaining_s(now))
        self._wait(call, now)

    def _end(self, attempt: Attempt, why: str = "") -> None:
        attempt.over, attempt.why_over = True, why
        attempt.replica.attempts.pop(attempt, None)
        self._actions.append(events.End(attempt))

    def _fail(self, call: Call, error: SaraiError) -> None:
        call.over, call.error = True, error
        call.attempt = call.rival = call.race = None  # breaks reference cycles
        self._actions.append(events.Fail(call))

    def _on_left(self, calls: list[Call], now: float) -> None:
        outlook = self._outlook(now)
        for call in calls:
            if call.over:
                continue
            error = outlook.left(call)
            self.line.remove(call)
            for attempt in filter(None, (call.attempt, call.rival)):
                self._end(attempt, "its caller has left")
            self._fail(call, error)
        self._serve(now)

    # --- the health of replicas ---

    def _watch_all(self) -> None:
        self._actions += [events.Watch(replica) for replica in self.roster.replicas if not replica.starts_itself]

    def _on_health(self, event: events.HealthTold, now: float) -> None:
        replica = event.replica
        if event.serving:
            replica.serve()
        elif event.why:
            replica.lose(event.why, gone=never_arrived(event.why))
        else:
            replica.refuse("it says that it does not serve now")
        self._serve(now)

    def _on_probed(self, event: events.Probed, now: float) -> None:
        """Continue calls over a new connection if the old one was dead, or elsewhere if the new one is silent too."""
        replica = event.replica
        replica.checking, replica.checked_s = False, now
        if not event.connection_dead:
            return
        if not event.why:
            self._cancel_silent(replica, "its connection was dead", event.since_s, now)
        elif self.roster.has_choice or replica.leaving:
            self._actions.append(lose(replica, event.why))
            self._cancel_silent(replica, event.why, math.inf, now)

    def _cancel_silent(self, replica: Replica, why: str, since_s: float, now: float) -> None:
        """Cancel the attempts that have been silent since then; further ones use a new connection."""
        replica.generation += 1
        error = self._outlook(now).gone(replica, why)
        for attempt in tuple(replica.attempts):
            if attempt.heard_s <= since_s:
                self._fail_attempt(attempt, error, now, why)
        self._serve(now)

    # --- time ---

    def _on_tick(self, now: float) -> None:
        self.due_s = math.inf
        for replica in self.roster.with_calls():
            self.due_s = now + TICK_S
            self._check_silent(replica, now)
        if self._config.hedge_s:
            self._hedge(now)
        self._serve(now)
        while self._resumes and (pair := misplaced(self.roster.replicas, now)) is not None:
            self._move(*pair, now)

    def _move(self, attempt: Attempt, replica: Replica, now: float) -> None:
        """Send a call whose prompt waits behind another one to a replica that reads it sooner."""
        attempt.call.moved, attempt.call.last_replica = True, None  # it is no failover
        self.stats.moves += 1
        self._end(attempt, "another replica can read its prompt sooner")
        self._begin(attempt.call, replica, now)

    def _check_silent(self, replica: Replica, now: float) -> None:
        silent = [attempt for attempt in replica.attempts if now - attempt.heard_s >= SILENT_S]
        self._actions += map(events.Prod, silent)
        rests = replica.starts_itself or replica.down or replica.checking or now - replica.checked_s < SILENT_S / 2
        # The longest silent attempt stands for all: they share a connection, or are probed again soon.
        longest = min(silent, key=lambda attempt: attempt.heard_s, default=None)
        if longest is not None and longest.probe is not None and not rests:
            replica.checking = True
            self._actions.append(events.Probe(longest, now - SILENT_S))

    def _hedge(self, now: float) -> None:
        """Ask a second replica for each attempt that has been silent too long, as far as the budget permits.

        The request is the same, so the answer is too, and the first attempt to respond wins the call.
        """
        for call in [attempt.call for attempt in self.roster.attempts() if self._can_race(attempt)]:
            assert call.attempt is not None
            due_s = call.attempt.began_s + self._config.hedge_s
            if due_s <= now:
                rival = choose_rival(call, self.roster.replicas, now) if self._budget.has_credit else None
                if rival is not None:
                    self._budget.spend(now)
                    self._begin(call, rival, now, hedge=True)
                    continue
                due_s = now + TICK_S
            self.due_s = min(self.due_s, due_s)

    @staticmethod
    def _can_race(attempt: Attempt) -> bool:
        return not (attempt.tokens or attempt.hedge or attempt.hedged) and attempt.call.race is not None

    # --- the rest ---

    def _on_targets(self, targets: Sequence[str], now: float) -> None:
        if not targets or self._closed:  # an empty result is no reason to drop all replicas
            return
        for replica in self.roster.update(targets):
            self._affinity.forget(replica)
            self._actions.append(events.Watch(replica))
        if self._started and self.roster.has_choice:
            self._watch_all()
        self._serve(now)

    def _calls(self) -> Iterator[Call]:
        yield from self.line
        yield from (attempt.call for attempt in self.roster.attempts())

    def _outlook(self, now: float) -> Outlook:
        return Outlook(self._skill, self.roster.replicas, self._config.recovery_s, now)

    def _on_closed(self) -> None:
        self._closed = True
        for call in list(self.line):
            self.line.remove(call)
            self._fail(call, self._closed_error())

    def _closed_error(self) -> SaraiError:
        return PoolClosedError(f"the pool of skill {self._skill!r} is closed; get_model_pool() gives another one")
