"""A grammar that requires a character for which there is no token."""

from __future__ import annotations

from skills.skill_draft.engine.messages import Done, Failed, FailureKind
from tests.engine.harness import EngineUnderTest, ask


def test_a_dead_end_of_a_grammar_is_the_requests_fault() -> None:
    with EngineUnderTest() as engine:
        # Byte tokens spell all of Unicode: only an empty character class is a dead end.
        for grammar in ('root ::= "a" []', 'root ::= "a" [] | root "b"'):
            failed = engine.answer(ask(grammar=grammar))
            assert isinstance(failed, Failed), failed
            assert (failed.kind, failed.field) == (FailureKind.INVALID, "grammar"), failed
            assert failed.message == "no text fits it from here on"
        assert isinstance(engine.answer(ask("Say hello.")), Done), "other requests continue"
