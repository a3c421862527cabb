"""How every call ended, whether that was right, and statistics."""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from core.errors import UnavailableError
from skills import skills_pb2
from tests.answers import candidates_of
from tests.chaos.questions import Question

Answer = skills_pb2.GenResp | skills_pb2.Candidate
LATE_S = 1.0
"""How long after its deadline a call may end, seconds."""
FAULTS_TOO_MANY = 2
"""A call during which this many faults occurred may fail: it is not tried on a third replica."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A call that has ended."""

    question: Question
    begin_s: float
    end_s: float
    timeout_s: float
    answer: skills_pb2.GenResp | None = None
    pieces: Sequence[skills_pb2.GenChunk] = ()
    """The pieces of a stream, without its result."""
    longest_pause_s: float = 0.0
    """The longest time between two pieces of a stream."""
    error: Exception | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultTime:
    """The time during which a replica was broken, until it served again."""

    name: str
    begin_s: float
    end_s: float = math.inf


@dataclass(slots=True)
class History:
    """All calls that have ended, and all faults; thread-safe."""

    nonces: frozenset[str]
    outcomes: list[Outcome] = field(default_factory=list)
    faults: list[FaultTime] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    """Calls that must not have ended as they did."""
    failed: list[str] = field(default_factory=list)
    """Calls that were allowed to fail, as two faults occurred during them."""
    broken: threading.Event = field(default_factory=threading.Event)
    """Set with the first entry of `wrong`."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, outcome: Outcome) -> None:
        """Check a call and record it."""
        faults = [fault.name for fault in self.faults if _overlap(fault, outcome)]
        problems = list(problems_of(outcome, self.nonces))
        with self._lock:
            self.outcomes.append(outcome)
            what = f"{_name(outcome)}, during {faults or 'no fault'}: {'; '.join(problems)}"
            if not problems:
                return
            if isinstance(outcome.error, UnavailableError) and not late(outcome) and len(faults) >= FAULTS_TOO_MANY:
                self.failed.append(what)
                return
            self.wrong.append(what)
            self.broken.set()

    def note(self, fault: FaultTime) -> None:
        """Record that a fault begins, or, under the same name, that it has ended."""
        self.faults = [each for each in self.faults if each.name != fault.name] + [fault]

    def figures(self) -> str:
        """Return statistics of all calls, as text."""
        times = sorted(outcome.end_s - outcome.begin_s for outcome in self.outcomes)
        pause = max((outcome.longest_pause_s for outcome in self.outcomes), default=0.0)
        kinds = Counter("stream" if outcome.question.streamed else "unary" for outcome in self.outcomes)
        return (
            f"{len(times)} calls ({', '.join(f'{n} {kind}' for kind, n in sorted(kinds.items()))}), "
            f"{len(self.failed)} given up after two faults, p50 {quantile(times, 0.5):.2f} s, "
            f"p99 {quantile(times, 0.99):.2f} s, longest pause in a stream {pause:.2f} s"
        )


def quantile(ordered: Sequence[float], q: float) -> float:
    """Return a quantile of sorted values, NaN if there are none."""
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))] if ordered else math.nan


def late(outcome: Outcome) -> bool:
    """Return whether a call ended too long after its deadline."""
    return outcome.end_s - outcome.begin_s > outcome.timeout_s + LATE_S


def problems_of(outcome: Outcome, nonces: frozenset[str]) -> list[str]:
    """Return what is wrong with a call; an error counts too."""
    problems = [f"ended after {outcome.end_s - outcome.begin_s:.1f} s"] if late(outcome) else []
    if outcome.error is not None:
        return [*problems, f"{type(outcome.error).__name__}: {outcome.error}"]
    if outcome.answer is None:
        return [*problems, f"ended without a result after {len(outcome.pieces)} pieces"]
    wanted = candidates_of(outcome.question.answer)
    problems += _differences("answer", candidates_of(outcome.answer), wanted)
    if outcome.question.streamed:
        joined = [skills_pb2.Candidate() for _ in wanted]
        for piece in outcome.pieces:
            joined[piece.candidate].text += piece.text
            joined[piece.candidate].token_ids.extend(piece.token_ids)
        problems += _differences("pieces", joined, wanted)
    texts = " ".join(candidate.text for candidate in candidates_of(outcome.answer))
    own = " ".join((outcome.question.nonce, *(c.text for c in wanted)))
    if foreign := [nonce for nonce in nonces if nonce in texts and nonce not in own]:
        problems.append(f"holds the nonces of others: {foreign}")
    return problems


def _differences(what: str, had: Sequence[Answer], wanted: Sequence[Answer]) -> list[str]:
    if len(had) != len(wanted):
        return [f"{len(had)} candidates, not {len(wanted)}"]
    for number, (one, other) in enumerate(zip(had, wanted, strict=True)):
        if one.text != other.text:
            return [f"{what} of candidate {number}: {one.text!r}, not {other.text!r}"]
        if list(one.token_ids) != list(other.token_ids):
            return [f"tokens of candidate {number} ({what}): {one.token_ids}, not {other.token_ids}"]
    return []


def _overlap(fault: FaultTime, outcome: Outcome) -> bool:
    return fault.begin_s < outcome.end_s and outcome.begin_s < fault.end_s


def _name(outcome: Outcome) -> str:
    request = outcome.question.request
    kind = "stream" if outcome.question.streamed else "unary call"
    return f"{kind} {outcome.question.nonce} ({request.temperature:g}, {request.num_candidates or 1} candidates)"
