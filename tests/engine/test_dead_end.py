"""A grammar whose next character no token has."""

from __future__ import annotations

from skills.skill_draft.engine.messages import Done, Failed, FailureKind
from tests.engine.harness import EngineUnderTest, ask


def test_a_dead_end_of_a_grammar_is_the_requests_fault() -> None:
    with EngineUnderTest() as engine:
        # Bytes spell all of Unicode, and some more: only a character of none of these numbers is a dead end.
        failed = engine.answer(ask(grammar='root ::= "a" [^\\x00-\\UFFFFFFFF]'))
        assert isinstance(failed, Failed), failed
        assert (failed.kind, failed.field) == (FailureKind.INVALID, "grammar"), failed
        assert isinstance(engine.answer(ask("Say hello.")), Done), "others go on"
