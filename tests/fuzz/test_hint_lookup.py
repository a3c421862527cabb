"""Lookup in a hint proposes nothing but what follows in the hint, whatever prompt, hint and answer are."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from skills.skill_draft.engine.lookup import NGRAM, AcceptanceRates, HintLookup

TOKENS = st.lists(st.integers(-3, 6), max_size=40)


@given(prompt=TOKENS, hint=TOKENS, answer=st.lists(st.integers(0, 6), max_size=60))
def test_it_only_proposes_what_is_in_the_hint(prompt: list[int], hint: list[int], answer: list[int]) -> None:
    hint = [max(0, token) for token in hint]
    tokens = list(prompt)
    lookup = HintLookup(tokens, AcceptanceRates(), [*prompt[-NGRAM:], *hint])
    for token in answer:
        proposed = lookup.propose(5)
        assert all(token >= 0 for token in proposed)
        assert proposed == [] or any(proposed == hint[i : i + len(proposed)] for i in range(len(hint)))
        assert 0 <= lookup.expected(5) <= 5
        tokens.append(token)
        lookup.push()
