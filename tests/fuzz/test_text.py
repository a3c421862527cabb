"""Any text, in any tokens, with any stop strings: what is shown is what was written before the first of them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from skills.skill_draft.engine.text import decode_whole
from tests.unit.draft.test_text import run

WORDS = st.text(alphabet="abcé語🙂 ", min_size=0, max_size=40)


def cut(text: str, sizes: list[int]) -> list[bytes]:
    """Return the bytes of a text, split into tokens of these sizes, which repeat."""
    raw, pieces, i = text.encode(), [], 0
    while raw:
        n = sizes[i % len(sizes)]
        pieces.append(raw[:n])
        raw, i = raw[n:], i + 1
    return pieces


@given(WORDS, st.lists(st.integers(1, 5), min_size=1, max_size=5), st.lists(WORDS.filter(bool), max_size=3))
def test_shown_pieces_join_to_the_text_before_the_first_stop(text: str, sizes: list[int], stops: list[str]) -> None:
    shown, assembler, stopped = run(cut(text, sizes), tuple(stops))
    joined = "".join(piece for piece, _ in shown)
    assert joined == assembler.text
    ends = [text.find(stop) for stop in stops if stop in text]
    assert stopped == bool(ends)
    if not ends:
        assert joined == text
    else:
        assert text.startswith(joined)
        assert not any(stop in joined for stop in stops)


@given(WORDS, st.lists(st.integers(1, 3), min_size=1, max_size=4), st.lists(WORDS.filter(bool), max_size=2))
def test_a_piece_is_the_text_of_its_tokens(text: str, sizes: list[int], stops: list[str]) -> None:
    pieces = cut(text, sizes)
    shown, _, stopped = run(pieces, tuple(stops))
    at = 0
    for piece, count in shown[: -1 if stopped else None]:
        assert piece == b"".join(pieces[at : at + count]).decode()
        at += count


@given(st.binary(max_size=60), st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_any_bytes_give_text_that_joins(raw: bytes, sizes: list[int]) -> None:
    pieces, rest, i = [], raw, 0
    while rest:
        n = sizes[i % len(sizes)]
        pieces.append(rest[:n])
        rest, i = rest[n:], i + 1
    shown, assembler, _ = run(pieces, ())
    assert "".join(piece for piece, _ in shown) == assembler.text == decode_whole(raw)
