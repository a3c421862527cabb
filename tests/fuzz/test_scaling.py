"""Any samples: what the policy wants is within the limits and has a reason."""

from __future__ import annotations

import math
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from core.scaling.samples import ReplicaLoad, Sample
from tests.unit.scaling.test_policy import Scaled


@st.composite
def replica(draw: Any, name: str) -> ReplicaLoad:
    number = st.integers(0, 20)
    seconds = st.floats(0, 1000)
    return ReplicaLoad(
        name=name, serving=draw(st.booleans()), requests_running=draw(number), requests_waiting=draw(number),
        prompts_waiting=draw(number), prefill_tokens_waiting=draw(st.integers(0, 10_000)), work_ahead_s=draw(seconds),
        expected_wait_s=draw(seconds), work_arrived_s=draw(seconds), work_done_s=draw(seconds),
        total_requests=draw(number), start_s=draw(seconds), uptime_s=draw(seconds),
        prompt_token_ms=draw(st.sampled_from([0.0, 1.0, 15.0])),
    )  # fmt: skip


@st.composite
def samples(draw: Any) -> Sample:
    names = draw(st.sets(st.sampled_from("abcdef")))
    return Sample(
        at_s=draw(st.floats(0.1, 20)), replicas=tuple(draw(replica(name)) for name in sorted(names)),
        silent=draw(st.integers(0, 3)), starting=draw(st.integers(0, 3)), failed_starts=draw(st.integers(0, 3)),
        waiting_calls=draw(st.integers(0, 50)), waiting_work_s=draw(st.floats(0, 500)),
    )  # fmt: skip


@settings(max_examples=30, deadline=None)
@given(st.lists(samples(), min_size=1, max_size=15), st.integers(0, 3), st.integers(1, 6))
def test_whatever_comes_the_wish_is_within_the_limits_and_has_a_reason(seen: list[Sample], low: int, high: int) -> None:
    skill = Scaled(low=low, high=high)
    for one in seen:
        there = sum(each.serving for each in one.replicas) + one.silent + one.starting
        fields = {name: getattr(one, name) for name in Sample.__slots__ if name not in {"at_s", "replicas"}}
        wanted = skill.see(*one.replicas, seconds=one.at_s, **fields)
        assert wanted <= max(high, there if one.silent else 0)
        assert wanted >= min(low, high) or wanted == there
        assert skill.decision.why
        assert math.isfinite(skill.decision.load)
