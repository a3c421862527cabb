"""How many replicas a skill should have: one pure function, for the simulation, the command line and Kubernetes alike.

    state, decision = decide(state, sample, limits)

Work counts, not requests: on a CPU, reading prompts is most of it, and prompts differ by a factor of a hundred. Up at
once, as a start takes seconds; down one at a time, and only to what was enough for the whole hold time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from statistics import median

from core.scaling.queueing import burstiness, forecast, predicted_wait_s, staffing
from core.scaling.samples import Decision, Limits, ReplicaLoad, Sample

NOTICE_S = 1.0
"""How long it takes until all know of a change: samples come every half second, and so often the pool looks."""
FAST_S, SLOW_S = 10.0, 60.0
"""Windows of the offered load."""
HOLD_S, HOLD_STARTS = 30.0, 10.0
"""A replica that was of use stays for this long, or this many times as long as a start takes. Who keeps something for
as long as a new one would cost pays at most twice what knowing the future would save (ski rental)."""
FULL_S = 600.0
"""How long replicas count as full."""
GAIN = 0.1
"""Share of a replica's throughput that another one must bring."""
FIRST_PAUSE_S, MOST_PAUSE_S = 1.0, 300.0
"""After a start that has failed; doubling."""


@dataclass(frozen=True, slots=True)
class _Past:
    """What is remembered of a sample. All but the last two are sums over all replicas, since the first sample."""

    at_s: float
    arrived_s: float
    requests: int
    tokens: float
    wish: int
    saturated: bool


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

    @property
    def hold_s(self) -> float:
        """How long a wish holds."""
        return max(HOLD_S, HOLD_STARTS * self.start_s)


def decide(state: State, sample: Sample, limits: Limits) -> tuple[State, Decision]:
    """Return how many replicas there should be, those that start included.

    Args:
        state: What the last call returned; `State()` at first.
        sample: The replicas now. The next one should come half a second later; a second or two do no harm.
        limits: What to keep to.
    """
    state = _note_starts(_count(state, sample), sample)
    load = _load(state, sample.at_s)
    state = _remember(state, sample, limits, _wish(state, sample, limits, load))
    state = _judge(state, sample)
    wanted, why = _choose(state, sample, limits, sample.there, load)
    state = _begin_trial(state, sample, adds=wanted > sample.there)
    return state, Decision(wanted, why, load.largest, sample.at_s < state.full_until_s)


# --- what the samples say ---


def _count(state: State, sample: Sample) -> State:
    """Add up what the counters have gained, whatever restarts."""
    first_s = state.past[0].at_s if state.past else sample.at_s
    counters: dict[str, tuple[float, float, int]] = {}
    arrived_s, tokens, requests = state.arrived_s, state.tokens, state.requests
    for each in sample.replicas:
        now = (each.work_arrived_s, each.work_done_s, each.total_requests)
        before = state.counters.get(each.name)
        if before is None:  # what an adopted replica has done before is no news
            before = (0.0, 0.0, 0) if each.uptime_s < sample.at_s - first_s else now
        elif any(new < old for new, old in zip(now, before, strict=True)):
            before = (0.0, 0.0, 0)
        counters[each.name] = now
        arrived_s += now[0] - before[0]
        requests += now[2] - before[2]
        if each.prompt_token_ms > 0:
            # In tokens: where replicas hinder each other, a second of theirs brings less.
            tokens += (now[1] - before[1]) * 1000 / each.prompt_token_ms
    return replace(
        state,
        # A replica that is silent for a moment has not started anew.
        counters={**state.counters, **counters} if sample.silent else counters,
        arrived_s=arrived_s + sample.waiting_work_s - state.line_work_s,
        tokens=tokens, requests=requests, line_work_s=sample.waiting_work_s,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Load:
    """Offered load over both windows, in replicas, and the mean work of a request."""

    fast: float = 0.0
    slow: float = 0.0
    request_s: float = 0.0

    @property
    def largest(self) -> float:
        return max(self.fast, self.slow)


def _load(state: State, now: float) -> _Load:
    if not state.past:
        return _Load()
    fast, slow, oldest = _since(state, now - FAST_S), _since(state, now - SLOW_S), state.past[0]
    requests = state.requests - oldest.requests
    return _Load(
        max(0.0, state.arrived_s - fast.arrived_s) / FAST_S,
        max(0.0, state.arrived_s - slow.arrived_s) / max(FAST_S, min(SLOW_S, now - slow.at_s)),
        max(0.0, state.arrived_s - oldest.arrived_s) / requests if requests > 0 else 0.0,
    )


def _since(state: State, at_s: float) -> _Past:
    """Return the latest sample before that time, or the oldest one."""
    return next((past for past in reversed(state.past) if past.at_s <= at_s), state.past[0])


def _reads(each: ReplicaLoad) -> bool:
    """Return whether a replica reads a prompt; of one without figures, whether it does anything."""
    if not each.prompt_token_ms:
        return each.requests_running + each.requests_waiting > 0
    return each.prompts_waiting + each.requests_waiting > 0


def _late(sample: Sample, limits: Limits) -> int:
    """Return the requests whose wait is over the target; each is worth one more replica at most."""
    late = sample.waiting_calls
    for each in sample.replicas:
        if each.prompts_waiting > 1:
            wait_s = each.prefill_tokens_waiting * each.prompt_token_ms / 1000 * (1 - 1 / each.prompts_waiting)
            late += (each.prompts_waiting - 1) * (wait_s > limits.target_wait_s)
        elif each.expected_wait_s > limits.target_wait_s:
            late += each.requests_waiting
    return late


def _wish(state: State, sample: Sample, limits: Limits, load: _Load) -> int:
    """Return how many replicas are of use now, or will be before another one could serve."""
    late = _late(sample, limits)
    reading = sum(each.serving and _reads(each) for each in sample.replicas)
    if not any(each.prompt_token_ms for each in sample.replicas):
        # From zero, one: when it serves it says what a call costs. Replicas without figures have only counts.
        return reading + late if sample.replicas else min(1, late)
    backlog_s = sample.waiting_work_s + sum(each.work_ahead_s for each in sample.replicas)
    needed = max(staffing(load.largest), backlog_s / FAST_S)
    wish = min(needed, max(reading + late, load.slow))
    if load.request_s:
        # Half the target may be spent on waiting for a start; what else comes meanwhile needs replicas that are there.
        reaction_s = state.start_s + NOTICE_S
        ahead_s = max(0.0, min(reaction_s, 2 * reaction_s - limits.target_wait_s))
        bursts = burstiness([(past.at_s, past.requests) for past in state.past], reaction_s)
        wish = max(wish, forecast(min(wish, reading + late), load.slow, load.request_s, ahead_s, bursts))
    return max(math.ceil(wish - 1e-6), min(1, late + reading))


def _remember(state: State, sample: Sample, limits: Limits, wish: int) -> State:
    serving = [each for each in sample.replicas if each.serving]
    saturated = bool(serving) and all(map(_reads, serving)) and _late(sample, limits) > 0
    new = _Past(sample.at_s, state.arrived_s, state.requests, state.tokens, wish, saturated)
    oldest_s = sample.at_s - max(SLOW_S, state.hold_s) - FAST_S
    return replace(state, past=(*(past for past in state.past if past.at_s >= oldest_s), new))


def _note_starts(state: State, sample: Sample) -> State:
    """Learn how long a start takes, and when the next one may be tried after one that has failed."""
    starts_s = [each.start_s for each in sample.replicas if each.start_s > 0]
    serving, failures, retry_at_s = sample.serving, state.failures, state.retry_at_s
    if serving > state.serving:
        failures, retry_at_s = 0, -math.inf
    if state.failed_starts is not None and sample.failed_starts > state.failed_starts:
        failures += 1
        retry_at_s = sample.at_s + min(MOST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(failures - 1, 10))
    return replace(
        state, serving=serving, failed_starts=sample.failed_starts, failures=failures, retry_at_s=retry_at_s,
        start_s=median(starts_s) if starts_s else state.start_s,
    )  # fmt: skip


# --- what to do ---


def _choose(  # noqa: PLR0911  # a line for each reason
    state: State, sample: Sample, limits: Limits, there: int, load: _Load
) -> tuple[int, str]:
    wish, now = state.past[-1].wish, sample.at_s
    cap, why_cap = limits.cap
    low = min(limits.low, cap)
    if now < state.full_until_s and state.full_at < cap:
        cap, why_cap = max(low, state.full_at), f"full: more than {state.full_at} brought nothing"
    if sample.silent and not sample.replicas:
        return there, "no replica answers, so nothing changes"
    if there > cap:
        return cap, why_cap
    if there < max(low, min(wish, cap)):
        if now < state.retry_at_s:
            return there, f"{_times(state.failures, 'start')} failed; the next one in {state.retry_at_s - now:.0f} s"
        if wish <= low:
            return low, f"at least {low} are wanted"
        if late := _late(sample, limits):
            return min(wish, cap), f"{_times(late, 'request')} would wait more than {limits.target_wait_s:g} s"
        return min(wish, cap), f"at a load of {load.largest:.1f}, {there} could soon be busy"
    if wish > there:
        return there, why_cap
    return _fewer(state, sample, limits, there, load) if there > low else (there, f"at least {low} are wanted")


def _fewer(state: State, sample: Sample, limits: Limits, there: int, load: _Load) -> tuple[int, str]:
    now, hold_s, low = sample.at_s, state.hold_s, min(limits.low, limits.cap[0])
    if sample.silent or sample.starting:
        return there, "replicas start, or do not answer"
    if now - state.past[0].at_s < hold_s:
        return there, f"watched for less than {hold_s:.0f} s"
    highest = max(past.wish for past in state.past if past.at_s >= now - hold_s)
    if highest >= there:
        return there, f"{_times(highest, 'replica')} had work within {hold_s:.0f} s"
    # One at a time; of hundreds, as many as are all gone within the shortest hold.
    fewer = max(highest, low, there - math.ceil(there / HOLD_S))
    wait_s = predicted_wait_s(fewer, load.slow, load.request_s)
    if fewer and wait_s > limits.target_wait_s / 2:
        return there, f"with {fewer} requests would wait {wait_s:.1f} s"
    return fewer, f"{_times(highest, 'replica')} would have been enough for {hold_s:.0f} s"


def _times(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


# --- replicas that bring nothing: their cores or their memory's bandwidth are in use ---


def _begin_trial(state: State, sample: Sample, *, adds: bool) -> State:
    """Remember the throughput before replicas are added while requests wait."""
    earlier = _since(state, sample.at_s - FAST_S)
    seconds = sample.at_s - earlier.at_s
    if not adds or state.trial is not None or not state.past[-1].saturated or seconds < FAST_S / 2:
        return state
    serving = sample.serving
    return replace(state, trial=_Trial(sample.at_s, serving, serving, (state.tokens - earlier.tokens) / seconds))


def _judge(state: State, sample: Sample) -> State:
    """Compare the throughput after an addition with that before, if requests have waited all the time."""
    trial, now, serving = state.trial, sample.at_s, sample.serving
    if trial is None:
        return state
    if not state.past[-1].saturated or serving < trial.replicas:
        return replace(state, trial=None)
    if serving > trial.replicas:
        return replace(state, trial=replace(trial, since_s=now, replicas=serving))
    added = serving - trial.replicas_before
    if now - trial.since_s < FAST_S or added < max(1, GAIN * trial.replicas_before):
        return state
    earlier = _since(state, now - FAST_S)
    gained = (state.tokens - earlier.tokens) / (now - earlier.at_s) - trial.rate_before
    needed = GAIN * added * trial.rate_before / trial.replicas_before
    state = replace(state, trial=None)
    if gained >= needed:
        return state
    # Where they hinder each other, back to as many as there were.
    return replace(state, full_until_s=now + FULL_S, full_at=serving if gained > -needed else trial.replicas_before)
