from __future__ import annotations

import dataclasses
import json
import math

import pytest

from core.loop.result import CallFigures, Iteration, LoopResult, Reflection, Stage, StopReason, best_of, confidence_of
from skills import skills_pb2


def figures(finish_reason: str = "stop", tokens: int = 3) -> CallFigures:
    return CallFigures(
        image_tokens=0,
        tokens=tokens,
        tokens_per_second=10.0,
        latency_ms=5.0,
        time_to_first_token_ms=1.0,
        queue_ms=0.0,
        prompt_tokens=7,
        cached_tokens=4,
        lookup_tokens=0,
        lookup_accepted=0,
        finish_reason=finish_reason,
        mean_logprob=-0.1,
    )


def iteration(number: int, text: str, score: float, finish_reason: str = "stop") -> Iteration:
    return Iteration(
        number=number,
        stage=Stage.DRAFT if number == 1 else Stage.CORRECTION,
        text=text,
        confidence=score,
        score=score,
        latency_ms=1.0,
        figures=figures(finish_reason),
    )


@pytest.mark.parametrize(
    ("iterations", "best"),
    [
        ([iteration(1, "a", 0.9), iteration(2, "b", 0.5)], 1),
        ([iteration(1, "a", 0.5), iteration(2, "b", 0.9)], 2),
        ([iteration(1, "a", 0.5), iteration(2, "b", 0.5)], 2),
        ([iteration(1, "a", 0.1), iteration(2, "", 0.9)], 1),
        ([iteration(1, " \n", 0.9), iteration(2, "b", 0.1)], 2),
        ([iteration(1, "a", 0.1), iteration(2, "b", 0.9, "length")], 1),
        ([iteration(1, "a", 0.1), iteration(2, "b", 0.9, "time_budget")], 1),
        ([iteration(1, "a", 0.1), iteration(2, "b", 0.9, "context_full")], 1),
        ([iteration(1, "a", 0.9, "length"), iteration(2, "b", 0.1)], 2),
        ([iteration(1, "a", 0.9, "length"), iteration(2, "", 0.9)], 1),
        ([iteration(1, "a", 0.1, "stop_string"), iteration(2, "b", 0.9, "length")], 1),
        ([iteration(1, "a", 0.9, "length"), iteration(2, "b", 0.5, "length")], 1),
    ],
)
def test_best_is_something_then_whole_then_highest_then_latest(iterations: list[Iteration], best: int) -> None:
    assert best_of(iterations).number == best


def response(*logprobs: float) -> skills_pb2.GenResp:
    mean = sum(logprobs) / len(logprobs) if logprobs else 0.0
    return skills_pb2.GenResp(text="x" * len(logprobs), token_ids=range(len(logprobs)), mean_logprob=mean)


def test_confidence_is_the_geometric_mean_of_the_probabilities() -> None:
    answer = response(math.log(0.5), math.log(0.125))
    assert confidence_of(answer) == pytest.approx(0.25)


def test_confidence_does_not_depend_on_length() -> None:
    assert confidence_of(response(*[math.log(0.5)] * 3)) == pytest.approx(confidence_of(response(math.log(0.5))))


def test_answer_without_tokens_has_no_confidence() -> None:
    assert confidence_of(response()) == 0.0


def test_confidence_is_a_probability_whatever_a_server_says() -> None:
    for wrong in (math.nan, math.inf, -math.inf, 3.0):
        assert 0.0 <= confidence_of(skills_pb2.GenResp(token_ids=[1], mean_logprob=wrong)) <= 1.0


def test_every_finish_reason_has_its_word() -> None:
    words = {
        CallFigures.of(skills_pb2.GenResp(finish_reason=number)).finish_reason
        for number in skills_pb2.FinishReason.values()
    }
    assert words == {"unspecified", "stop", "stop_string", "length", "context_full", "time_budget"}


def test_result_is_ready_for_json() -> None:
    result = LoopResult(
        answer="b",
        best=2,
        iterations=(iteration(1, "a", 0.1), iteration(2, "b", 0.2)),
        stopped=StopReason.MAX_ITERATIONS,
        failure=None,
        closing_reflection=None,
        language="en",
        seed=None,
        skill="echo",
        model="stub",
        origin="address",
        target="127.0.0.1:1",
        latency_ms=2.0,
    )
    read = json.loads(json.dumps(result.as_dict()))
    assert read["stopped"] == "max_iterations"
    assert read["iterations"][1]["stage"] == "correction"
    assert (read["tokens"], read["prompt_tokens"], read["cached_tokens"]) == (6, 14, 8)


TALK = "I am sorry, but I cannot correct this text for you today."


@pytest.mark.parametrize(
    ("reflection", "correction", "best"),
    [
        (TALK, TALK, 1),
        (TALK, TALK.replace("today", "now"), 1),
        (TALK, "A rainbow forms when light is bent in drops of water in the air.", 2),
        ("4", "4", 2),
    ],
)
def test_talk_about_the_answer_never_replaces_it(reflection: str, correction: str, best: int) -> None:
    said = Reflection(text=reflection, nothing_to_correct=False, figures=figures())
    draft = iteration(1, "A rainbow is made of light.", 0.4)
    corrected = dataclasses.replace(iteration(2, correction, 0.9), reflection=said)
    assert best_of([draft, corrected]).number == best
