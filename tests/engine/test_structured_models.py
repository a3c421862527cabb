"""The embedded model's answers to many schemas: complete ones parse, and another library finds them valid."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import hypothesis
import jsonschema
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.strategies import SearchStrategy

from skills.skill_draft.embedded import make_embedded
from skills.skill_draft.engine.messages import Done, FinishReason, Sampling

from .harness import EngineUnderTest, ask
from .models import MODELS
from .schemas import Schema, composed_schemas, made_schemas


@pytest.fixture(scope="module")
def engine() -> Iterator[EngineUnderTest]:
    with EngineUnderTest(make_embedded(), n_ctx=1024, kv_cells=8192, threads=2) as running:
        yield running


def drawn(schemas: SearchStrategy[Schema], number: int) -> list[Schema]:
    """Return `number` different schemas, always the same ones."""
    found: dict[str, Schema] = {}

    @hypothesis.seed(2020)
    @settings(
        max_examples=number * 11 // 10,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(schema=schemas)
    def draw(schema: Schema) -> None:
        if len(found) < number:
            found.setdefault(json.dumps(schema), schema)

    draw()
    return list(found.values())


def answers(engine: EngineUnderTest, schemas: list[Any], **fields: Any) -> list[tuple[Any, Any]]:
    """Return each schema with its outcome."""
    ids = []
    for i, schema in enumerate(schemas):
        sampling = Sampling(seed=i, temperature=1.5, top_k=0, top_p=1.0, min_p=0.02)
        request = ask("Give me an example.", json_schema=json.dumps(schema), sampling=sampling, **fields)
        ids.append(engine.submit(request))
    return [(schema, engine.wait_for(id_, timeout=240)) for schema, id_ in zip(schemas, ids, strict=True)]


def check(schema: Any, text: str) -> None:
    kind = jsonschema.Draft202012Validator
    kind.check_schema(schema)
    value = json.loads(text)
    errors = [error.message for error in kind(schema, format_checker=kind.FORMAT_CHECKER).iter_errors(value)]
    assert errors == [], f"{text} for {json.dumps(schema)}"


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("kind", "number"), [(made_schemas, 200), (composed_schemas, 60)])
def test_answers_to_random_schemas_are_valid(
    engine: EngineUnderTest, kind: Callable[[], SearchStrategy[Schema]], number: int
) -> None:
    taken = ended = 0
    schemas = drawn(kind(), number)
    assert len(schemas) == number
    for begin in range(0, number, 50):
        for schema, done in answers(engine, schemas[begin : begin + 50], max_tokens=24, close_json=120):
            if not isinstance(done, Done):
                continue
            taken += 1
            ending = done.endings[0]
            closed = len(ending.tokens.token_ids) > 24
            if ending.reason is FinishReason.STOP or closed:
                ended += 1
                check(schema, ending.text)
    print(f"{number} schemas, {taken} taken, {ended} answers with an end")
    assert taken > 0.75 * number, "some have characters that cannot be written or have no tokens"
    assert ended > 0.7 * taken, "numbers may continue until the limit, and are valid as they are"


def test_answers_for_pydantic_models_are_valid(engine: EngineUnderTest) -> None:
    schemas = [adapter.json_schema() for adapter in MODELS.values()]
    for max_tokens in (10, 60, 160):
        ended = 0
        for (name, adapter), (schema, done) in zip(
            MODELS.items(), answers(engine, schemas, max_tokens=max_tokens, close_json=400), strict=True
        ):
            assert isinstance(done, Done), f"{name}: {done}"
            ending = done.endings[0]
            if ending.reason is FinishReason.STOP or len(ending.tokens.token_ids) > max_tokens:
                ended += 1
                check(schema, ending.text)
                if "Invoice" not in name:  # it has durations of thousands of years, which are valid but cannot be read
                    adapter.validate_json(ending.text)
        assert ended >= len(schemas) - 2
