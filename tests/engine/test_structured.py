"""Constrained answers: forced tokens cost no step, and an answer cut off by a limit is reported or completed."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from skills.skill_draft.embedded import make_embedded
from skills.skill_draft.engine.binding import Model, ModelParams
from skills.skill_draft.engine.constraint import ConstraintError
from skills.skill_draft.engine.costs import StepCosts
from skills.skill_draft.engine.matcher import Matchers
from skills.skill_draft.engine.messages import Constraint, ConstraintKind, Done, FinishReason, Sampling

from .harness import EngineUnderTest, ask

KEYS = [f"a_rather_long_key_{i}" for i in range(8)]
SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {key: {"type": "integer", "minimum": 0, "maximum": 9} for key in KEYS},
        "required": KEYS,
        "additionalProperties": False,
    }
)


@pytest.fixture(scope="module")
def engine() -> Iterator[EngineUnderTest]:
    with EngineUnderTest() as running:
        yield running


@pytest.fixture
def cheap_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make all steps cost the same, as if only memory mattered."""
    monkeypatch.setattr(StepCosts, "known", True)
    monkeypatch.setattr(StepCosts, "recent_ms", lambda _, rows: 10 + rows / 100)


@pytest.mark.usefixtures("cheap_rows")
def test_what_the_schema_forces_costs_no_steps(engine: EngineUnderTest) -> None:
    before = engine.engine.stats().steps
    done = engine.answer(ask("Say hello.", json_schema=SCHEMA, max_tokens=600, lookup=False, sampling=Sampling(seed=5)))
    steps, tokens = engine.engine.stats().steps - before, len(done.endings[0].tokens.token_ids)
    assert list(json.loads(done.endings[0].text)) == KEYS
    assert steps < 0.6 * tokens, f"{steps} steps for {tokens} tokens"
    assert done.lookup_tokens == done.lookup_accepted == 0, "forced tokens do not count as lookup"


@pytest.mark.usefixtures("cheap_rows")
def test_speculative_tokens_that_the_grammar_forbids_cost_no_row(
    engine: EngineUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The prompt repeatedly suggests what the grammar forbids."""
    prompt = "one two three four one two three four one two three four"
    request = ask(prompt, regex="(one two |three |four ){12}", max_tokens=40, sampling=Sampling(seed=1, temperature=3))
    checked = engine.answer(request)
    monkeypatch.setattr("skills.skill_draft.engine.matcher.Matcher.fitting", lambda _, tokens: len(tokens))
    again = ask(prompt, regex="(one two |three |four ){12}", max_tokens=40, sampling=request.sampling)
    unchecked = engine.answer(again)
    assert checked.endings == unchecked.endings
    wrong = checked.lookup_tokens - checked.lookup_accepted
    assert wrong < unchecked.lookup_tokens - unchecked.lookup_accepted


def test_a_complete_answer_ends_without_another_step(engine: EngineUnderTest) -> None:
    before = engine.engine.stats().steps
    done = engine.answer(ask(regex="[0-9]", lookup=False))
    assert engine.engine.stats().steps - before == 1
    assert done.endings[0].reason is FinishReason.STOP
    assert engine.answer(ask(regex="[0-9]", max_tokens=1)).endings[0].reason is FinishReason.STOP


@pytest.mark.parametrize("limit", ["tokens", "time"])
@pytest.mark.parametrize("close_json", [0, 5, 400])
def test_a_limit_in_the_middle_is_reported_and_closed_if_requested(
    engine: EngineUnderTest, limit: str, close_json: int
) -> None:
    limits: dict[str, Any] = {"max_tokens": 40}
    if limit == "time":
        # The engine is paused meanwhile, so that the budget ends in the middle of the answer on any machine.
        limits = {"max_tokens": 900, "budget_end": time.monotonic() + 0.05}
    request = ask(
        "Say hello.", json_schema=SCHEMA.replace('"maximum": 9', '"minimum": 100'), **limits, close_json=close_json
    )
    ending = engine.answer(request).endings[0]
    assert ending.reason is (FinishReason.LENGTH if limit == "tokens" else FinishReason.TIME_BUDGET)
    if close_json == 400:
        assert list(json.loads(ending.text)) == KEYS
    else:
        assert len(ending.tokens.token_ids) <= limits["max_tokens"]
        assert not ending.text.endswith("}")


def test_a_valid_end_is_found_for_strings_arrays_patterns_and_choices(engine: EngineUnderTest) -> None:
    day = {"type": "string", "format": "date"}
    parts: list[Any] = [
        {"type": "string", "minLength": 9},
        {"type": "array", "items": {"enum": ["red", "green"]}, "minItems": 2},
        {"type": "string", "pattern": "^[a-c]+x[0-9]{3}$"},
        {"type": "object", "properties": {"when": day}, "required": ["when"]},
        {"anyOf": [{"type": "null"}, day]},
        {"const": 'quote " and \\ and 🙂'},
    ]
    for max_tokens in range(1, 40, 3):
        schema = json.dumps({"type": "array", "prefixItems": parts, "minItems": len(parts), "items": False})
        hot = Sampling(seed=max_tokens, temperature=3)
        done = engine.answer(ask(json_schema=schema, max_tokens=max_tokens, close_json=300, sampling=hot))
        assert isinstance(done, Done), done
        assert len(json.loads(done.endings[0].text)) == len(parts)


def test_a_character_that_the_model_has_no_tokens_for_is_refused_with_its_place() -> None:
    vocab = Model(make_embedded(), ModelParams()).vocab
    schema = {"type": "object", "properties": {"sign": {"enum": ["plain", "\U00040000"]}}}
    said = r"/properties/sign/enum has '\\U00040000' \(U\+40000\), .* no tokens"
    with pytest.raises(ConstraintError, match=said):
        Matchers(vocab).start(Constraint(kind=ConstraintKind.JSON_SCHEMA, text=json.dumps(schema)))
    # JSON escapes this one, which the vocabulary lacks too.
    control = {"type": "object", "properties": {"sign": {"const": "\4"}}, "additionalProperties": False}
    assert 4 in vocab.missing_bytes
    Matchers(vocab).start(Constraint(kind=ConstraintKind.JSON_SCHEMA, text=json.dumps(control)))
