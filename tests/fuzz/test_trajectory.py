"""A trajectory that grows by any steps is read like one that is complete."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from skills.skill_draft.cut import Cut
from skills.skill_draft.engine.messages import Constraint, ConstraintKind, Request, Tokens
from skills.skill_draft.trajectory import End
from tests.unit.draft.test_trajectory import some_tokens


def answer(cut: Cut) -> object:
    """Return all of an ending that a caller sees."""
    return cut.ending and (cut.ending.text, cut.ending.reason, cut.ending.tokens)


@given(
    st.builds(some_tokens, st.integers(0, 30), st.integers(0, 30)), st.sampled_from(End), st.integers(1, 35),
    st.lists(st.sampled_from(["a", "ba", " c", "🙂", "é"])), st.lists(st.integers(1, 6), max_size=8),
)  # fmt: skip
def test_a_growing_trajectory_is_read_like_a_whole_one(
    tokens: Tokens, end: End, most: int, stop: list[str], steps: list[int]
) -> None:
    constraint = Constraint(kind=ConstraintKind.REGEX, text="a") if end is End.COMPLETE else None
    request = Request(id=1, max_tokens=most, stop=tuple(stop), constraint=constraint)
    at_once = Cut(request, 0, n_ctx=30, limited=end is End.LIMIT)
    whole = at_once.read(tokens, end, prompt_tokens=7)
    growing, pieces, there = Cut(request, 0, n_ctx=30, limited=end is End.LIMIT), [], 0
    for step in steps:
        there = min(len(tokens.token_ids), there + step)
        pieces.append(growing.read(tokens.part(0, there), None, prompt_tokens=7))
    pieces.append(growing.read(tokens, end, prompt_tokens=7))
    shown = [piece for piece in pieces if piece]
    assert answer(growing) == answer(at_once)
    assert "".join(piece.text for piece in shown) == (whole.text if whole else "")
    assert sum((piece.tokens for piece in shown), Tokens()) == (whole.tokens if whole else Tokens())
