"""Random schemas and documents for them: the valid ones can be written, and no others."""

from __future__ import annotations

import itertools
import json
import re
from typing import Any

import hypothesis
import jsonschema
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis_jsonschema import from_schema

from skills.skill_draft.engine.messages import ConstraintKind
from tests.matching import of_schema, refusal, writes
from tests.schema_judge import texts

from .schemas import Schema, made_schemas

# Excepted in docs/structured.md: a number with an exponent or many digits and bounds, some control characters,
# international host names.
NARROWER = re.compile(r"(?i)\\u00|\x7f|\d[eE][+-]?\d|\.\d{12}|\bxn--")
# Without certain packages, jsonschema accepts any string for some formats.
FORMAT = re.compile(r'"format": "([^"]+)"')
NO_DOCUMENT = re.compile(r"(?i)unsatisfiable|empty|no text fits|control character")


def in_draft_7(part: Any) -> Any:
    """Return the schema in the form that hypothesis-jsonschema supports."""
    if isinstance(part, list):
        return [in_draft_7(sub) for sub in part]
    if not isinstance(part, dict):
        return part
    if "prefixItems" in part:
        part = {**part, "items": part["prefixItems"], "additionalItems": part["items"]}
        del part["prefixItems"]
    return {key: in_draft_7(sub) for key, sub in part.items()}


@pytest.mark.timeout(600)
def test_valid_documents_can_be_written_and_no_others() -> None:
    judge, fit, others = jsonschema.Draft202012Validator, 0, 0
    earlier: list[Any] = []

    @hypothesis.seed(2020)
    @settings(
        max_examples=200,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(schema=made_schemas(), data=st.data())
    def check(schema: Schema, data: st.DataObject) -> None:
        nonlocal fit, others
        if why := refusal(ConstraintKind.JSON_SCHEMA, json.dumps(schema)):
            assert NO_DOCUMENT.search(why), schema
            return
        matcher = of_schema(schema)
        documents = data.draw(st.lists(from_schema(in_draft_7(schema)), min_size=1, max_size=2))
        judged = set(FORMAT.findall(json.dumps(schema))) <= set(judge.FORMAT_CHECKER.checkers)
        valid = judge(schema, format_checker=judge.FORMAT_CHECKER).is_valid
        for document in [*documents, *earlier[-4:]]:
            can_be_written = any(writes(matcher, text) for text in itertools.islice(texts(document), 500))
            if not valid(document):
                others += 1
                assert not can_be_written, f"{document} is not valid for {json.dumps(schema)}"
            elif judged and not NARROWER.search(json.dumps(document, ensure_ascii=False)):
                fit += 1
                assert can_be_written, f"{document} is valid for {json.dumps(schema)}"
        earlier.extend(documents)

    check()
    print(f"{fit} documents that fit, {others} others")
    assert fit > 200
    assert others > 200
