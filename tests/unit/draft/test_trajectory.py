"""A kept trajectory: its bytes, and what calls with other limits read from it."""

from __future__ import annotations

import math
import random
import struct

import pytest

from skills.skill_draft.cut import Cut
from skills.skill_draft.engine.messages import FinishReason, Request, TokenLogprob, Tokens
from skills.skill_draft.trajectory import DamagedError, End, Trajectory

WORDS = [b"a", b"ab", b" ", "é".encode(), "🙂".encode()[:2], "🙂".encode()[2:], b"", b"cab", b"\xff"]


def f32(value: float) -> float:
    return float(struct.unpack("f", struct.pack("f", value))[0])


def some_tokens(n: int, seed: int, *, top: int = 0) -> Tokens:
    draw = random.Random(seed)
    ids = [draw.randrange(len(WORDS)) for _ in range(n)]
    places = [
        tuple(TokenLogprob(token_id=k, text=WORDS[k], logprob=-draw.random()) for k in range(top)) for _ in range(n)
    ]
    return Tokens(
        token_ids=tuple(ids), logprobs=tuple(f32(-draw.random()) for _ in ids),
        top=tuple(places) if top else (), spelling=tuple(WORDS[i] for i in ids),
    )  # fmt: skip


def kept(tokens: Tokens, end: End = End.OPEN, *, top: int = 0) -> Trajectory:
    return Trajectory(tokens=tokens, end=end, prompt_tokens=7, image_tokens=3, top_logprobs=top, work_s=1.5)


@pytest.mark.parametrize("n", [0, 1, 40])
@pytest.mark.parametrize("top", [0, 3])
def test_a_trajectory_comes_back_from_its_bytes(n: int, top: int) -> None:
    trajectory = kept(some_tokens(n, n, top=top), End.COMPLETE, top=top)
    assert Trajectory.decode(trajectory.encode()) == trajectory


def test_damaged_bytes_are_refused() -> None:
    data = kept(some_tokens(20, 1, top=2), top=2).encode()
    for i in range(len(data)):
        for flip in (1, 0x80, 0xFF):
            with pytest.raises(DamagedError):
                Trajectory.decode(data[:i] + bytes([data[i] ^ flip]) + data[i + 1 :])
        with pytest.raises(DamagedError):
            Trajectory.decode(data[:i])
    with pytest.raises(DamagedError):
        Trajectory.decode(data + b"x")


def test_a_continuation_gets_only_the_rest_and_its_own_figures() -> None:
    tokens = some_tokens(12, 3)
    had = Tokens(token_ids=tokens.token_ids[:5])
    cut = Cut(Request(id=1, max_tokens=9, so_far=(had,)), 0, n_ctx=99, limited=False)
    assert cut.fits(kept(tokens))
    piece = cut.read(tokens, End.OPEN, prompt_tokens=7)
    assert cut.ending is not None
    assert cut.ending.reason is FinishReason.LENGTH
    assert cut.ending.tokens.token_ids == tokens.token_ids[:9]
    assert all(math.isnan(value) for value in cut.ending.tokens.logprobs[:5])
    assert cut.ending.tokens.logprobs[5:] == tokens.logprobs[5:9]
    assert piece is not None
    assert cut.ending.text == cut.replayed + piece.text
    other = Tokens(token_ids=(*tokens.token_ids[:4], 99))
    assert not Cut(Request(id=1, so_far=(other,)), 0, n_ctx=99, limited=False).fits(kept(tokens))
    assert not Cut(Request(id=1, top_logprobs=2), 0, n_ctx=99, limited=False).fits(kept(tokens, top=1))
