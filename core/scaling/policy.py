"""How many replicas a skill should have: one pure function, for the simulation, the command line and Kubernetes alike.

    state, decision = decide(state, sample, limits)

Work counts, not requests: on a CPU, reading prompts is most of it, and prompts differ by a factor of a hundred. Up at
once, as a start takes seconds; down one at a time, and only to what was enough for the whole hold time.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field, replace
from operator import attrgetter

from core.scaling.queueing import burstiness, forecast, predicted_wait_s, staffing
from core.scaling.samples import Decision, Limits, Sample, Seen, look

NOTICE_S = 1.0
"""How long it takes until all know of a change: samples come every half second, and so often the pool looks."""
FAST_S, SLOW_S = 10.0, 60.0
"""Windows of the offered load."""
HOLD_S, SHORTEST_HOLD_S, LONGEST_HOLD_S = 16.0, 10.0, 1200.0
"""A replica that was of use stays for so long where a start takes as long as a request may wait, for longer where it
takes longer, as the next request is late then. Who keeps something for as long as a new one would cost pays at most
twice what knowing the future would save (ski rental)."""
SPARE_S, RARER = 120.0, 0.25
"""A replica that was only there in case stays for as long as one that was of use, but at most for SPARE_S, and for less
where requests come in bursts: the burstier, the rarer are the moments at which any come."""
DOWN = 30
"""Of that many replicas one goes at a time; of hundreds, as many as are all gone within the shortest hold."""
FULL_S = 600.0
"""How long replicas count as full."""
GAIN = 0.1
"""Share of a replica's throughput that another one must bring."""
FIRST_PAUSE_S, MOST_PAUSE_S = 1.0, 300.0
"""After a start that has failed; doubling."""


@dataclass(frozen=True, slots=True)
class _Past:
    """What is remembered of a sample: sums over all replicas, since the first sample."""

    at_s: float
    arrived_s: float
    requests: int
    tokens: float
    windows: int
    recent: int
    squares: int
    """Requests within one reaction before a sample: over how many samples, their sum, and the sum of their squares."""


@dataclass(frozen=True, slots=True)
class _Trial:
    """Replicas that were added while requests waited: do they bring anything?"""

    since_s: float
    """When the last one of them began to serve."""
    replicas: int
    replicas_before: int
    rate_before: float
    """Tokens a second."""


@dataclass(frozen=True, slots=True)
class State:
    """What the policy remembers from one sample to the next. `State()` knows nothing."""

    past: tuple[_Past, ...] = ()
    held: tuple[tuple[int, float], ...] = ()
    """How many are to stay until when, descending."""
    counters: dict[str, tuple[float, float, int]] = field(default_factory=dict)
    arrived_s: float = 0.0
    tokens: float = 0.0
    requests: int = 0
    line_work_s: float = 0.0
    serving: int = 0
    start_s: float = 0.0
    failed_starts: int | None = None
    failures: int = 0
    retry_at_s: float = -math.inf
    trial: _Trial | None = None
    full_until_s: float = -math.inf
    full_at: int = 0


def decide(state: State, sample: Sample, limits: Limits) -> tuple[State, Decision]:
    """Return how many replicas there should be, those that start included.

    Args:
        state: What the last call returned; `State()` at first.
        sample: The replicas now. The next one should come half a second later; a second or two do no harm.
        limits: What to keep to.
    """
    seen = look(sample, limits)
    state = _note_starts(_count(state, sample), sample, seen)
    load = _load(state, sample.at_s)
    used, wish = _wish(state, limits, seen, load)
    state = _remember(state, limits, load, used, wish)
    state = _judge(state, seen)
    wanted, why = _choose(state, limits, seen, load, wish)
    if wanted > seen.there:
        state = _begin_trial(state, seen)
    return state, Decision(wanted, why, load.largest, sample.at_s < state.full_until_s)


# --- what the samples say ---


def _count(state: State, sample: Sample) -> State:
    """Add up what the counters have gained, whatever restarts."""
    first_s, known = state.past[0].at_s if state.past else sample.at_s, state.counters
    counters: dict[str, tuple[float, float, int]] = {}
    arrived_s, tokens, requests = state.arrived_s, state.tokens, state.requests
    for each in sample.replicas:
        now = (each.work_arrived_s, each.work_done_s, each.total_requests)
        before = known.get(each.name)
        counters[each.name] = now
        if before == now:
            continue
        if before is None:  # what an adopted replica has done before is no news
            before = (0.0, 0.0, 0) if each.uptime_s < sample.at_s - first_s else now
        elif now[0] < before[0] or now[1] < before[1] or now[2] < before[2]:
            before = (0.0, 0.0, 0)
        arrived_s += now[0] - before[0]
        requests += now[2] - before[2]
        if each.prompt_token_ms > 0:
            # In tokens: where replicas hinder each other, a second of theirs brings less.
            tokens += (now[1] - before[1]) * 1000 / each.prompt_token_ms
    return replace(
        state,
        # A replica that is silent for a moment has not started anew.
        counters={**known, **counters} if sample.silent else counters,
        arrived_s=arrived_s + sample.waiting_work_s - state.line_work_s,
        tokens=tokens, requests=requests, line_work_s=sample.waiting_work_s,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Load:
    """Offered load in replicas over both windows and over all that is remembered, and the mean work of a request."""

    at_s: float
    fast: float = 0.0
    slow: float = 0.0
    long: float = 0.0
    request_s: float = 0.0
    bursts: float = 1.0

    @property
    def largest(self) -> float:
        return max(self.fast, self.slow)


def _load(state: State, now: float) -> _Load:
    if not state.past:
        return _Load(now)
    fast, slow = _since(state, now - FAST_S), _since(state, now - SLOW_S)
    oldest, newest = state.past[0], state.past[-1]
    requests = state.requests - oldest.requests
    windows = newest.windows - oldest.windows
    return _Load(
        now,
        max(0.0, state.arrived_s - fast.arrived_s) / FAST_S,
        max(0.0, state.arrived_s - slow.arrived_s) / max(FAST_S, min(SLOW_S, now - slow.at_s)),
        max(0.0, state.arrived_s - oldest.arrived_s) / max(FAST_S, now - oldest.at_s),
        max(0.0, state.arrived_s - oldest.arrived_s) / requests if requests > 0 else 0.0,
        burstiness(windows, newest.recent - oldest.recent, newest.squares - oldest.squares),
    )


def _since(state: State, at_s: float) -> _Past:
    """Return the latest sample before that time, or the oldest one."""
    return state.past[max(0, bisect_right(state.past, at_s, key=_AT_S) - 1)]


_AT_S = attrgetter("at_s")


def _wish(state: State, limits: Limits, seen: Seen, load: _Load) -> tuple[int, int]:
    """Return how many replicas are of use now, and how many are, or will be before another one could serve."""
    wants = seen.reading + seen.late
    if not seen.figures:
        # From zero, one: when it serves it says what a call costs. Replicas without figures have only counts.
        return (wants, wants) if seen.answered else (min(1, seen.late),) * 2
    needed = max(staffing(load.largest), seen.backlog_s / FAST_S)
    wish, used = min(needed, max(wants, load.slow)), min(needed, wants)
    if load.request_s:
        # Half the target may be spent on waiting for a start; what else comes meanwhile needs replicas that are there.
        reaction_s = state.start_s + NOTICE_S
        ahead_s = max(0.0, min(reaction_s, 2 * reaction_s - limits.target_wait_s))
        spread = max(load.slow, load.long * load.bursts)
        wish = max(wish, forecast(used, load.slow, load.request_s, ahead_s, spread))
    least = min(1, wants)
    return max(math.ceil(used - 1e-6), least), max(math.ceil(wish - 1e-6), least)


def _remember(state: State, limits: Limits, load: _Load, used: int, wish: int) -> State:
    now, hold_s = load.at_s, _hold_s(state, limits)
    windows = recent = squares = 0
    if state.past:
        last, begin_s = state.past[-1], now - state.start_s - NOTICE_S
        windows, recent, squares = last.windows, last.recent, last.squares
        if begin_s >= state.past[0].at_s:
            number = state.requests - _since(state, begin_s).requests
            windows, recent, squares = windows + 1, recent + number, squares + number * number
    new = _Past(now, state.arrived_s, state.requests, state.tokens, windows, recent, squares)
    oldest = bisect_left(state.past, now - max(SLOW_S, hold_s) - FAST_S, key=_AT_S)
    held: list[tuple[int, float]] = []
    spare_s = max(SHORTEST_HOLD_S, min(SPARE_S, hold_s) / load.bursts**RARER)
    for number, until_s in sorted((*state.held, (used, now + hold_s), (wish, now + spare_s)), reverse=True):
        if until_s >= now and (not held or until_s > held[-1][1]):
            held.append((number, until_s))
    return replace(state, past=(*state.past[oldest:], new), held=tuple(held))


def _hold_s(state: State, limits: Limits) -> float:
    """Return how long a replica stays that was of use."""
    starts = (state.start_s + NOTICE_S) / max(limits.target_wait_s, 1e-3)
    return min(LONGEST_HOLD_S, max(SHORTEST_HOLD_S, HOLD_S * starts))


def _note_starts(state: State, sample: Sample, seen: Seen) -> State:
    """Learn how long a start takes, and when the next one may be tried after one that has failed."""
    failures, retry_at_s = state.failures, state.retry_at_s
    if seen.serving > state.serving:
        failures, retry_at_s = 0, -math.inf
    if state.failed_starts is not None and sample.failed_starts > state.failed_starts:
        failures += 1
        retry_at_s = sample.at_s + min(MOST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(failures - 1, 10))
    return replace(
        state, serving=seen.serving, failed_starts=sample.failed_starts, failures=failures, retry_at_s=retry_at_s,
        start_s=seen.start_s or state.start_s,
    )  # fmt: skip


# --- what to do ---


def _choose(  # noqa: PLR0911  # a line for each reason
    state: State, limits: Limits, seen: Seen, load: _Load, wish: int
) -> tuple[int, str]:
    there, now = seen.there, seen.at_s
    cap, why_cap = limits.cap
    low = min(limits.low, cap)
    if now < state.full_until_s and state.full_at < cap:
        cap, why_cap = max(low, state.full_at), f"full: more than {state.full_at} brought nothing"
    if seen.silent and not seen.answered:
        return there, "no replica answers, so nothing changes"
    if there > cap:
        return cap, why_cap
    if there < max(low, min(wish, cap)):
        if now < state.retry_at_s:
            return there, f"{_times(state.failures, 'start')} failed; the next one in {state.retry_at_s - now:.0f} s"
        if wish <= low:
            return low, _least(low)
        if seen.late:
            return min(wish, cap), f"{_times(seen.late, 'request')} would wait more than {limits.target_wait_s:g} s"
        return min(wish, cap), f"at a load of {load.largest:.1f}, {there} could soon be busy"
    if wish > there:
        return there, f"{why_cap}, {wish} would be of use"
    return _fewer(state, limits, seen, load) if there > low else (there, _least(low))


def _fewer(state: State, limits: Limits, seen: Seen, load: _Load) -> tuple[int, str]:
    there, now, hold_s, low = seen.there, seen.at_s, _hold_s(state, limits), min(limits.low, limits.cap[0])
    if seen.silent or seen.starting:
        return there, "replicas start, or do not answer"
    if now - state.past[0].at_s < hold_s:
        return there, f"watched for less than {hold_s:.0f} s"
    highest = state.held[0][0]
    if highest >= there:
        were = "was" if there == 1 else "were"
        return there, f"{_times(there, 'replica')} {were} of use within {hold_s:.0f} s"
    # One at a time; of hundreds, as many as are all gone within the shortest hold.
    fewer = max(highest, low, there - math.ceil(there / DOWN))
    wait_s = predicted_wait_s(fewer, load.slow, load.request_s)
    if fewer and wait_s > limits.target_wait_s / 2:
        return there, f"with {fewer} requests would wait {wait_s:.1f} s"
    return fewer, f"{_times(highest, 'replica')} would have been enough for {hold_s:.0f} s"


def _least(low: int) -> str:
    return f"at least {low} {'is' if low == 1 else 'are'} wanted" if low else "nothing is asked for"


def _times(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


# --- replicas that bring nothing: their cores or their memory's bandwidth are in use ---


def _begin_trial(state: State, seen: Seen) -> State:
    """Remember the throughput before replicas are added while requests wait."""
    earlier = _since(state, seen.at_s - FAST_S)
    seconds = seen.at_s - earlier.at_s
    if state.trial is not None or not seen.saturated or seconds < FAST_S / 2:
        return state
    rate = (state.tokens - earlier.tokens) / seconds
    return replace(state, trial=_Trial(seen.at_s, seen.serving, seen.serving, rate))


def _judge(  # noqa: PLR0911  # a line for each reason
    state: State, seen: Seen
) -> State:
    """Compare the throughput after an addition with that before, if requests have waited all the time."""
    trial, now, serving = state.trial, seen.at_s, seen.serving
    if trial is None:
        return state
    if not seen.saturated or serving < trial.replicas:
        return replace(state, trial=None)
    if serving > trial.replicas:
        return replace(state, trial=replace(trial, since_s=now, replicas=serving))
    added = serving - trial.replicas_before
    if now - trial.since_s < FAST_S or added < max(1, GAIN * trial.replicas_before):
        return state
    earlier = _since(state, now - FAST_S)
    if earlier.at_s >= now:  # nobody has looked for so long that nothing is left to compare with
        return replace(state, trial=None)
    gained = (state.tokens - earlier.tokens) / (now - earlier.at_s) - trial.rate_before
    needed = GAIN * added * trial.rate_before / trial.replicas_before
    state = replace(state, trial=None)
    if gained >= needed:
        return state
    # Where they hinder each other, back to as many as there were.
    return replace(state, full_until_s=now + FULL_S, full_at=serving if gained > -needed else trial.replicas_before)
