"""A grammar whose next character no token has."""

from __future__ import annotations

from skills.skill_draft.engine.messages import Done, Failed, FailureKind
from tests.engine.harness import EngineUnderTest, ask


def test_a_dead_end_of_a_grammar_is_the_requests_fault() -> None:
    with EngineUnderTest() as engine:
        # Bytes spell all of Unicode: only a class without a character is a dead end.
        for grammar in ('root ::= "a" []', 'root ::= "a" [] | root "b"'):
            failed = engine.answer(ask(grammar=grammar))
            assert isinstance(failed, Failed), failed
            assert (failed.kind, failed.field) == (FailureKind.INVALID, "grammar"), failed
            assert failed.message == "no text fits it from here on"
        assert isinstance(engine.answer(ask("Say hello.")), Done), "others go on"
