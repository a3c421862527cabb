"""The test suite of JSON Schema judges: what is taken is answered rightly."""

from __future__ import annotations

import pytest

from tests.schema_judge import DOCUMENT, WHERE, judge, suite, table


def test_no_schema_is_taken_and_answered_wrongly() -> None:
    if (folder := suite()) is None:
        pytest.skip(f"there is no test suite of JSON Schema: {WHERE}")
    verdicts = judge(folder)
    assert [fault for verdict in verdicts.values() for fault in verdict.faults] == []
    assert sum(verdict.taken for verdict in verdicts.values()) > 200
    assert table(verdicts) in DOCUMENT.read_text(encoding="utf-8"), "run python -m tests.schema_judge"
