"""A grammar whose next character no token has."""

from __future__ import annotations

from skills.skill_draft.engine.messages import Done, Failed, FailureKind
from tests.engine.harness import EngineUnderTest, ask
from tests.engine.test_contract import engine  # noqa: F401  # a fixture


def test_a_dead_end_of_a_grammar_is_the_requests_fault(engine: EngineUnderTest) -> None:
    failed = engine.answer(ask(grammar='root ::= "a" [^\\x00-\\UFFFFFFFF]'))
    assert isinstance(failed, Failed), failed
    assert (failed.kind, failed.field) == (FailureKind.INVALID, "grammar"), failed
    assert isinstance(engine.answer(ask("Say hello.")), Done), "others go on"
