"""Lookup in a hint: where it goes on, what it expects, and that it gives up."""

from __future__ import annotations

from skills.skill_draft.engine.lookup import NGRAM, AcceptanceRates, BothLookups, HintLookup, Lookup

PROMPT = [1, 2, 3, 4, 5]


def begun(hint: list[int], rates: AcceptanceRates | None = None) -> tuple[list[int], HintLookup]:
    tokens = list(PROMPT)
    return tokens, HintLookup(tokens, rates or AcceptanceRates(), [*PROMPT[-NGRAM:], *hint])


def write(tokens: list[int], lookup: HintLookup | Lookup | BothLookups, *more: int) -> None:
    for token in more:
        tokens.append(token)
        lookup.push()


def test_it_begins_with_the_first_token() -> None:
    tokens, lookup = begun([*range(100, 120)])
    assert lookup.propose(4) == [100, 101, 102, 103]
    write(tokens, lookup, 100)
    assert lookup.propose(2) == [101, 102]
    assert lookup.propose(0) == []


def test_an_answer_that_has_begun_goes_on_where_it_is() -> None:
    tokens = [*PROMPT, 100, 101, 102, 103, 104]
    lookup = HintLookup(tokens, AcceptanceRates(), [*PROMPT[-NGRAM:], *range(100, 120)])
    assert lookup.propose(3) == [105, 106, 107]


def test_it_goes_on_behind_words_that_are_exchanged_left_out_or_added() -> None:
    tokens, lookup = begun([*range(100, 160)])
    write(tokens, lookup, 7)
    assert lookup.propose(2) == [101, 102]
    write(tokens, lookup, *range(101, 112), 7)
    assert lookup.propose(2) == [113, 114]
    write(tokens, lookup, 114, 115, 116)
    assert lookup.propose(2) == [117, 118]
    write(tokens, lookup, 8, 9, 117, 118, 119)
    assert lookup.propose(2) == [120, 121]


def test_what_occurs_often_is_found_where_the_answer_is() -> None:
    tokens, lookup = begun([token for i in range(9) for token in (50, 51, 52, 100 + i, 200 + i, 300 + i)])
    write(tokens, lookup, 50, 51, 52, 100, 200, 7, 50, 51, 52)
    assert lookup.propose(1) == [101], "neither the first one nor the last one"


def test_it_ends_with_the_hint() -> None:
    tokens, lookup = begun([100, 101])
    assert lookup.propose(9) == [100, 101]
    assert lookup.expected(9) <= 2
    write(tokens, lookup, 100, 101)
    assert (lookup.propose(9), lookup.expected(9)) == ([], 0.0)


def test_a_hint_that_is_always_wrong_gives_up_and_others_do_not_begin_with_it() -> None:
    rates = AcceptanceRates()
    first = begun([*range(100, 200)])[1].expected(3)
    for _ in range(100):
        tokens, lookup = begun([*range(100, 200)], rates)
        write(tokens, lookup, 700, 701, 100, 101, 102, 702)
    assert begun([*range(100, 200)], rates)[1].expected(3) < 0.5 * first


def test_the_better_of_both_is_taken() -> None:
    tokens = [*PROMPT, *range(300, 340), *PROMPT]
    own = Lookup(tokens, AcceptanceRates())
    both = BothLookups(own, HintLookup(tokens, AcceptanceRates(), [*PROMPT[-NGRAM:], *range(100, 120)]))
    assert (both.from_hint, both.propose(2)) == (True, [100, 101])
    write(tokens, both, *range(300, 330))
    assert (both.from_hint, both.propose(2)) == (False, [330, 331])
    assert both.expected(2) == own.expected(2) > 0
