"""The loop against a skill with scripted answers, over real sockets."""

from __future__ import annotations

import contextlib
import itertools
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from pydantic import BaseModel, field_validator

from core.config import PoolConfig
from core.errors import (
    AnswerError,
    ConfigError,
    CutAnswerError,
    InvalidAnswerError,
    InvalidRequestError,
    UnavailableError,
    UnknownSkillError,
)
from core.model_pool import ModelPool
from core.omni_loop import (
    IterationFinished,
    LoopConfig,
    LoopError,
    LoopEvent,
    LoopFinished,
    LoopResult,
    LoopStarted,
    OmniLoop,
    Piece,
    ReflectionFinished,
    Stage,
    StageStarted,
    StopReason,
)
from skills import skills_pb2
from tests.stub_plugin import PluginTree
from tests.stub_skill import Failure, Reply, Script, StubSkill, token_id

UNSURE = -1.0
"""A log-probability with low confidence."""


def unsure(text: str, logprob: float = UNSURE, **reply: Any) -> Reply:
    return Reply(text=text, logprob=logprob, **reply)


SCRIPT = (unsure("one two"), unsure("The two is wrong."), unsure("one three"), unsure("Three?"), unsure("one four"))


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[PluginTree]:
    before = list(sys.path)
    made = PluginTree(tmp_path)
    made.write_stub("echo")
    yield made
    sys.path[:] = before


OpenLoop = Callable[..., OmniLoop]


@pytest.fixture
def loop_at(tree: PluginTree) -> Iterator[OpenLoop]:
    """Return a function that makes loops which call a server."""
    with contextlib.ExitStack() as pools:

        def make(skill: StubSkill, **settings: Any) -> OmniLoop:
            config = PoolConfig(targets={"SARAI_ECHO_TARGET": skill.target}, recovery_s=0.0)
            pool = pools.enter_context(ModelPool(config, plugins=tree.load()))
            return OmniLoop(LoopConfig(**settings), pool=pool, skill="echo")

        yield make


def run(loop_at: OpenLoop, script: Script, **settings: Any) -> tuple[LoopResult, list[skills_pb2.GenReq]]:
    with StubSkill(script) as skill:
        result = loop_at(skill, **settings).run("What is it?")
        return result, skill.requests


def turns(request: skills_pb2.GenReq) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in request.messages]


def test_draft_is_reflected_on_and_corrected_twice(loop_at: OpenLoop) -> None:
    result, requests = run(loop_at, SCRIPT)
    assert result.stopped is StopReason.MAX_ITERATIONS
    assert [i.text for i in result.iterations] == ["one two", "one three", "one four"]
    assert [i.stage for i in result.iterations] == [Stage.DRAFT, Stage.CORRECTION, Stage.CORRECTION]
    assert [i.reflection and i.reflection.text for i in result.iterations] == [None, "The two is wrong.", "Three?"]
    assert (result.answer, result.best) == ("one four", 3)
    assert len(requests) == 5


def test_each_call_extends_the_conversation_before_it(loop_at: OpenLoop) -> None:
    _, requests = run(loop_at, SCRIPT, system="Be brief.")
    assert turns(requests[0]) == [("system", "Be brief."), ("user", "What is it?")]
    for before, after in itertools.pairwise(requests):
        assert list(after.messages)[: len(before.messages)] == list(before.messages)
        assert [role for role, _ in turns(after)[len(before.messages) :]] == ["assistant", "user"]
        assert not after.prompt
        assert not after.system
    assert [content for role, content in turns(requests[-1]) if role == "assistant"] == [
        "one two", "The two is wrong.", "one three", "Three?",
    ]  # fmt: skip


def test_answers_go_back_as_the_tokens_that_they_were(loop_at: OpenLoop) -> None:
    _, requests = run(loop_at, SCRIPT)
    drafts = [message for message in requests[-1].messages if message.role == "assistant"]
    assert list(drafts[0].token_ids) == [token_id("one"), token_id(" two")]
    assert all(message.token_ids for message in drafts)


def test_answer_ended_by_a_stop_string_goes_back_as_text_alone(loop_at: OpenLoop) -> None:
    ended = unsure("one", finish_reason=skills_pb2.FINISH_REASON_STOP_STRING)
    _, requests = run(loop_at, [ended, *SCRIPT[1:3]], max_iterations=2, stop=("two",))
    draft = requests[1].messages[1]
    assert (draft.content, list(draft.token_ids)) == ("one", [])


def test_nothing_to_correct_needs_no_correction(loop_at: OpenLoop) -> None:
    result, requests = run(loop_at, [unsure("fine"), unsure("Nothing to correct.")])
    assert result.stopped is StopReason.NOTHING_TO_CORRECT
    assert result.answer == "fine"
    assert len(requests) == 2
    assert result.closing_reflection is not None
    assert result.closing_reflection.nothing_to_correct


def test_verdict_that_was_cut_off_is_none(loop_at: OpenLoop) -> None:
    cut = unsure("Nothing to correct", finish_reason=skills_pb2.FINISH_REASON_LENGTH)
    result, _ = run(loop_at, [unsure("a"), cut, unsure("b")], max_iterations=2)
    assert result.stopped is StopReason.MAX_ITERATIONS


def test_correction_that_changes_nothing_ends_it(loop_at: OpenLoop) -> None:
    result, requests = run(loop_at, [unsure("one two"), unsure("Hm."), unsure(" one\n two ")])
    assert result.stopped is StopReason.UNCHANGED
    assert len(result.iterations) == 2
    assert len(requests) == 3


def test_sure_draft_is_the_answer(loop_at: OpenLoop) -> None:
    result, requests = run(loop_at, [Reply(text="sure", logprob=-0.01)])
    assert result.stopped is StopReason.CONFIDENT
    assert result.iterations[0].confidence == pytest.approx(0.990, abs=0.001)
    assert len(requests) == 1


def test_length_makes_no_answer_sure(loop_at: OpenLoop) -> None:
    result, _ = run(loop_at, [unsure("long " * 200), unsure("Hm."), unsure("b")], max_iterations=2)
    assert result.stopped is StopReason.MAX_ITERATIONS
    assert result.iterations[0].confidence == pytest.approx(result.iterations[1].confidence)


def test_confidence_can_be_switched_off(loop_at: OpenLoop) -> None:
    result, _ = run(loop_at, [Reply(text="sure", logprob=0.0)], max_iterations=1, confidence_threshold=None)
    assert result.stopped is StopReason.MAX_ITERATIONS


def test_best_answer_wins_over_the_last(loop_at: OpenLoop) -> None:
    script = [unsure("good", -0.2), unsure("Hm."), unsure("bad", -2.0), unsure("Hm."), unsure("worse", -3.0)]
    result, _ = run(loop_at, script)
    assert (result.answer, result.best, len(result.iterations)) == ("good", 1, 3)


def test_correction_that_was_cut_off_does_not_beat_a_whole_draft(loop_at: OpenLoop) -> None:
    cut = Reply(text="sure but cut", logprob=-0.2, finish_reason=skills_pb2.FINISH_REASON_LENGTH)
    result, _ = run(loop_at, [unsure("whole"), unsure("Hm."), cut], max_iterations=2)
    assert result.answer == "whole"


def test_failed_correction_leaves_the_draft_and_says_why(loop_at: OpenLoop) -> None:
    failure = Failure(code=grpc.StatusCode.INTERNAL, details="the engine is gone")
    result, _ = run(loop_at, [unsure("draft"), unsure("Hm."), failure])
    assert result.stopped is StopReason.FAILED
    assert result.answer == "draft"
    assert result.failure is not None
    assert "the engine is gone" in result.failure
    assert result.closing_reflection is not None


def test_correction_whose_stream_fails_leaves_the_draft(loop_at: OpenLoop) -> None:
    broken = unsure("one two three", break_after=1, failure=Failure(code=grpc.StatusCode.INTERNAL, details="cable"))
    result, _ = run(loop_at, [unsure("draft"), unsure("Hm."), broken])
    assert (result.stopped, result.answer) == (StopReason.FAILED, "draft")


def test_failed_draft_is_an_error_with_its_cause(loop_at: OpenLoop) -> None:
    with pytest.raises(LoopError, match="scripted failure") as caught:
        run(loop_at, [Failure(code=grpc.StatusCode.INVALID_ARGUMENT, fields=(("messages", "too long"),))])
    assert isinstance(caught.value.error, InvalidRequestError)
    assert caught.value.__cause__ is caught.value.error
    assert caught.value.caller_fault


def test_nobody_there_is_an_error_with_its_cause(loop_at: OpenLoop) -> None:
    with StubSkill() as skill:
        pass
    with pytest.raises(LoopError) as caught:
        loop_at(skill).run("x")
    assert isinstance(caught.value.error, UnavailableError)
    assert caught.value.retryable


def test_unknown_skill_is_named(tree: PluginTree) -> None:
    with ModelPool(plugins=tree.load()) as pool, pytest.raises(UnknownSkillError, match="ecko"):
        OmniLoop(pool=pool, skill="ecko").run("x")


def test_time_budget_goes_along_with_every_call_and_shrinks(loop_at: OpenLoop) -> None:
    slow = [Reply(text=reply.text, logprob=UNSURE, delay_s=0.05) for reply in SCRIPT]
    _, requests = run(loop_at, slow, time_budget_s=60.0)
    budgets = [request.time_budget_ms for request in requests]
    assert len(budgets) == 5
    assert 55_000 < budgets[-1] < budgets[0] <= 60_000
    assert all(after <= before - 50 for before, after in itertools.pairwise(budgets))


def test_without_a_budget_none_is_sent(loop_at: OpenLoop) -> None:
    _, requests = run(loop_at, SCRIPT)
    assert {request.time_budget_ms for request in requests} == {0}


def test_draft_at_the_end_of_the_time_budget_is_the_answer(loop_at: OpenLoop) -> None:
    cut = unsure("so far", finish_reason=skills_pb2.FINISH_REASON_TIME_BUDGET)
    result, requests = run(loop_at, [cut], time_budget_s=5.0)
    assert (result.stopped, result.answer) == (StopReason.TIME_BUDGET, "so far")
    assert len(requests) == 1


def test_no_call_is_begun_when_the_budget_is_over(loop_at: OpenLoop) -> None:
    result, requests = run(loop_at, [unsure("late", delay_s=0.3)], time_budget_s=0.2)
    assert (result.stopped, result.answer) == (StopReason.TIME_BUDGET, "late")
    assert len(requests) == 1


def test_correction_that_overruns_the_budget_does_not_hold_up_the_draft(loop_at: OpenLoop) -> None:
    started_s = time.monotonic()
    result, _ = run(loop_at, [unsure("draft"), unsure("Hm."), unsure("late", delay_s=30.0)], time_budget_s=0.5)
    assert (result.stopped, result.answer) == (StopReason.TIME_BUDGET, "draft")
    assert time.monotonic() - started_s < 5.0


def test_iteration_that_overruns_its_deadline_leaves_the_draft(loop_at: OpenLoop) -> None:
    result, _ = run(loop_at, [unsure("draft"), unsure("late", delay_s=30.0)], timeout_s=0.5)
    assert (result.stopped, result.answer) == (StopReason.FAILED, "draft")
    assert "DEADLINE_EXCEEDED" in str(result.failure)


def test_full_context_ends_it(loop_at: OpenLoop) -> None:
    full = unsure("The two", finish_reason=skills_pb2.FINISH_REASON_CONTEXT_FULL)
    result, requests = run(loop_at, [unsure("draft"), full])
    assert (result.stopped, result.answer) == (StopReason.CONTEXT_FULL, "draft")
    assert len(requests) == 2


def test_reflection_is_free_of_the_form_of_the_answer(loop_at: OpenLoop) -> None:
    settings: dict[str, Any] = {"grammar": "{}", "stop": ("x",), "max_tokens": 50, "reflection_max_tokens": 20}
    _, requests = run(loop_at, SCRIPT, **settings, top_k=7, lookup=False, batch=True)
    draft, reflection, correction = requests[:3]
    assert (draft.grammar, list(draft.stop), draft.max_tokens) == ("{}", ["x"], 50)
    assert (correction.grammar, list(correction.stop), correction.max_tokens) == ("{}", ["x"], 50)
    assert (reflection.WhichOneof("constraint"), list(reflection.stop), reflection.max_tokens) == (None, [], 20)
    for request in requests:
        assert (request.top_k, request.lookup, request.priority) == (7, False, skills_pb2.PRIORITY_BATCH)


class Word(BaseModel):
    word: str

    @field_validator("word")
    @classmethod
    def is_short(cls, word: str) -> str:
        if len(word) > 5:
            raise ValueError("is too long")
        return word


def test_answer_is_parsed_and_its_drafts_and_corrections_are_constrained(loop_at: OpenLoop) -> None:
    script = [unsure('{"word": "one"}'), unsure("Hm."), unsure('{"word": "two"}')]
    settings: dict[str, Any] = {"close_json": 9, "allow_weaker_schema": True}
    result, requests = run(loop_at, script, json_schema=Word, max_iterations=2, **settings)
    assert (result.parsed, result.answer, result.best) == (Word(word="two"), '{"word": "two"}', 2)
    for request in (requests[0], requests[2]):
        assert json.loads(request.json_schema)["required"] == ["word"]
        assert (request.close_json, request.allow_weaker_schema) == (9, True)
    assert requests[1].WhichOneof("constraint") is None
    assert (requests[1].close_json, requests[1].allow_weaker_schema) == (0, False)
    assert "parsed" not in json.loads(json.dumps(result.as_dict()))


@pytest.mark.parametrize("schema", [{"type": "object"}, '{"type": "object"}'])
def test_answer_to_a_json_schema_is_parsed_too(loop_at: OpenLoop, schema: object) -> None:
    result, _ = run(loop_at, [Reply(text='{"a": 1}')], json_schema=schema)
    assert result.parsed == {"a": 1}


def test_answer_that_is_not_valid_is_corrected_however_sure_it_is(loop_at: OpenLoop) -> None:
    sure = Reply(text='{"word": "too long"}', logprob=0.0)
    result, _ = run(loop_at, [sure, unsure("Shorter!"), unsure('{"word": "short"}')], json_schema=Word)
    assert [iteration.fits for iteration in result.iterations] == [False, True]
    assert (result.parsed, result.stopped) == (Word(word="short"), StopReason.FAILED)


def test_correction_that_is_not_valid_does_not_beat_a_draft_that_is(loop_at: OpenLoop) -> None:
    script = [unsure('{"word": "a"}'), unsure("Hm."), unsure('{"word": "too long"}', -0.1)]
    result, _ = run(loop_at, script, json_schema=Word, max_iterations=2)
    assert result.parsed == Word(word="a")


@pytest.mark.parametrize(
    ("draft", "error"),
    [
        (unsure('{"word": "too long"}'), InvalidAnswerError),
        (unsure('{"word": "a', finish_reason=skills_pb2.FINISH_REASON_LENGTH), CutAnswerError),
        (unsure('{"word": "a', finish_reason=skills_pb2.FINISH_REASON_TIME_BUDGET), CutAnswerError),
    ],
)
def test_no_answer_that_fits_is_an_error_that_holds_the_answer(
    loop_at: OpenLoop, draft: Reply, error: type[AnswerError]
) -> None:
    with pytest.raises(LoopError) as caught:
        run(loop_at, [draft, unsure("NOTHING TO CORRECT")], json_schema=Word)
    assert type(caught.value.error) is error
    assert caught.value.error.text == draft.text


def test_schema_that_is_none_is_refused_when_the_loop_is_made() -> None:
    with pytest.raises(ConfigError, match="JSON"):
        OmniLoop(LoopConfig(json_schema="{"))


def test_regular_expression_holds_for_answers_alone(loop_at: OpenLoop) -> None:
    result, requests = run(loop_at, SCRIPT, regex="[a-z ]*", max_iterations=2)
    assert [request.regex for request in requests] == ["[a-z ]*", "", "[a-z ]*"]
    assert result.parsed is None


def test_it_is_greedy_by_default_and_leaves_the_rest_to_the_skill(loop_at: OpenLoop) -> None:
    _, (request, *_) = run(loop_at, SCRIPT)
    assert request.HasField("temperature")
    assert request.temperature == 0.0
    for field in ("seed", "top_p", "top_k", "min_p", "repeat_penalty"):
        assert not request.HasField(field)


def test_one_seed_is_drawn_for_all_calls_and_named(loop_at: OpenLoop) -> None:
    result, requests = run(loop_at, SCRIPT, temperature=0.7)
    assert result.seed is not None
    assert {request.seed for request in requests} == {result.seed}
    again, _ = run(loop_at, SCRIPT, temperature=0.7)
    assert again.seed != result.seed


def test_seed_that_is_given_is_used(loop_at: OpenLoop) -> None:
    result, requests = run(loop_at, SCRIPT, temperature=0.7, seed=0)
    assert result.seed == 0
    assert all(request.HasField("seed") and request.seed == 0 for request in requests)


def test_spanish_prompt_is_reflected_on_in_spanish(loop_at: OpenLoop) -> None:
    with StubSkill([unsure("borrador"), unsure("NADA QUE CORREGIR")]) as skill:
        result = loop_at(skill).run("¿Qué es un arco iris?")
        assert result.language == "es"
        assert "NADA QUE CORREGIR" in skill.requests[1].messages[-1].content


def test_language_can_be_set(loop_at: OpenLoop) -> None:
    result, requests = run(loop_at, SCRIPT, language="es")
    assert result.language == "es"
    assert "NADA QUE CORREGIR" in requests[1].messages[-1].content


def test_events_tell_what_happens_in_its_order(loop_at: OpenLoop) -> None:
    with StubSkill([unsure("one two"), unsure("Two?"), unsure("one three"), unsure("NOTHING TO CORRECT")]) as skill:
        events = list(loop_at(skill).stream("What is it?"))
        target = skill.target
    assert events[0] == LoopStarted(skill="echo", language="en", origin="address", target=target)
    stages = [(e.iteration, e.stage) for e in events if isinstance(e, StageStarted)]
    assert stages == [(1, Stage.DRAFT), (2, Stage.REFLECTION), (2, Stage.CORRECTION), (3, Stage.REFLECTION)]
    last = events[-1]
    assert isinstance(last, LoopFinished)
    assert [e.iteration for e in events if isinstance(e, IterationFinished)] == list(last.result.iterations)
    reflections = [e.reflection for e in events if isinstance(e, ReflectionFinished)]
    assert reflections == [last.result.iterations[1].reflection, last.result.closing_reflection]
    assert texts(events) == {
        (1, Stage.DRAFT): "one two",
        (2, Stage.REFLECTION): "Two?",
        (2, Stage.CORRECTION): "one three",
        (3, Stage.REFLECTION): "NOTHING TO CORRECT",
    }


def texts(events: list[LoopEvent]) -> dict[tuple[int, Stage], str]:
    joined: dict[tuple[int, Stage], str] = {}
    for event in events:
        if isinstance(event, Piece):
            place = (event.iteration, event.stage)
            joined[place] = joined.get(place, "") + event.text
    return joined


def test_pieces_come_while_the_answer_is_written(loop_at: OpenLoop) -> None:
    with StubSkill([unsure("one two", chunk_delay_s=2.0)]) as skill:
        events = loop_at(skill, max_iterations=1).stream("x")
        started_s = time.monotonic()
        first = next(event for event in events if isinstance(event, Piece))
        assert first.text == "one"
        assert time.monotonic() - started_s < 1.5
        events.close()


def test_closing_the_events_cancels_the_call(loop_at: OpenLoop) -> None:
    with StubSkill([unsure("one two three", chunk_delay_s=30.0)]) as skill:
        events = loop_at(skill).stream("x")
        next(event for event in events if isinstance(event, Piece))
        events.close()
        (call,) = skill.calls
        assert call.ended.wait(5.0)
        assert call.cancelled


def test_figures_are_the_skills_own(loop_at: OpenLoop) -> None:
    script = [unsure("a b c", prompt_tokens=20, cached_tokens=5), unsure("NOTHING TO CORRECT", cached_tokens=9)]
    result, _ = run(loop_at, script)
    draft = result.iterations[0]
    assert (draft.figures.tokens, draft.figures.prompt_tokens, draft.figures.cached_tokens) == (3, 20, 5)
    assert (result.tokens, result.prompt_tokens, result.cached_tokens) == (6, 30, 14)
    assert result.model == "stub"
    assert result.origin == "address"
    assert draft.latency_ms > 0


def test_one_loop_serves_several_threads(loop_at: OpenLoop) -> None:
    with StubSkill(lambda request: unsure(f"to {request.messages[0].content}")) as skill:
        loop, answers = loop_at(skill, max_iterations=1), dict[str, str]()
        prompts = [f"prompt {n}" for n in range(8)]
        threads = [threading.Thread(target=lambda p=p: answers.update({p: loop.run(p).answer})) for p in prompts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
    assert answers == {prompt: f"to {prompt}" for prompt in prompts}


SCORER = """
from core.hookspecs import hookimpl

@hookimpl
def sarai_score(request, response):
    return {score}

@hookimpl
def sarai_reflection_prompt(language, round):
    return {prompt}
"""


def test_plugin_scores_and_words_reflections(loop_at: OpenLoop, tree: PluginTree) -> None:
    tree.write("judge", SCORER.format(score="0.8 if response.text == 'odd' else 0.1", prompt="f'{language} {round}?'"))
    script = [unsure("odd", -2.0), unsure("Hm."), unsure("b"), unsure("Hm."), unsure("c")]
    result, requests = run(loop_at, script)
    assert (result.answer, result.iterations[0].score) == ("odd", 0.8)
    assert [requests[1].messages[-1].content, requests[3].messages[-1].content] == ["en 1?", "en 2?"]


def test_plugin_that_is_sure_ends_it(loop_at: OpenLoop, tree: PluginTree) -> None:
    tree.write("judge", SCORER.format(score="1.0", prompt="None"))
    result, _ = run(loop_at, [unsure("odd", -2.0)])
    assert result.stopped is StopReason.CONFIDENT


@pytest.mark.parametrize("score", ["1 / 0", "None", "float('nan')", "'high'"])
def test_plugin_that_fails_costs_no_answer(
    loop_at: OpenLoop, tree: PluginTree, score: str, caplog: pytest.LogCaptureFixture
) -> None:
    tree.write("judge", SCORER.format(score=score, prompt="[][0]"))
    result, requests = run(loop_at, [unsure("a"), unsure("NOTHING TO CORRECT")])
    assert result.answer == "a"
    assert result.iterations[0].score == result.iterations[0].confidence
    assert "NOTHING TO CORRECT" in requests[1].messages[-1].content
    assert "sarai_reflection_prompt" in caplog.text
