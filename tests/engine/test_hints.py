"""A hint, whatever it is, decides how fast an answer comes and nothing of what it is. Equality, not tolerance."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skills.skill_draft.engine.lookup import HintLookup
from skills.skill_draft.engine.messages import Done, Ending, Request, Tokens

from . import test_images_same_bits as with_images
from . import test_same_bits
from .harness import EngineUnderTest, ask
from .test_same_bits import again, outcome

undisturbed = test_same_bits.undisturbed

Expected = list[tuple[Request, tuple[Ending, ...]]]
Hint = tuple[int, ...]


def own(endings: Sequence[Ending]) -> Hint:
    return endings[-1].tokens.token_ids


def edited(endings: Sequence[Ending]) -> Hint:
    """Return the answer with a word more, one less and another one, again and again."""
    ids = list(own(endings))
    for at in range(5, len(ids), 9):
        ids[at : at + 1] = ([], [7], [*ids[at : at + 1], 8, 9])[at % 3]
    return tuple(ids)


def at_random(endings: Sequence[Ending]) -> Hint:
    draw = random.Random(len(own(endings)))
    return tuple(draw.choice((draw.randrange(300), *own(endings))) for _ in range(200))


HINTS: dict[str, Callable[[Sequence[Ending]], Hint]] = {
    "its own answer": own,
    "nearly its answer": edited,
    "at random": at_random,
    "always the same": lambda _: (7,) * 500,
    "of immense length": lambda endings: own(endings) * 20_000,
    "control tokens, ends of answers": lambda endings: tuple(t for i in own(endings) for t in (i, *range(8))),
    "no tokens at all": lambda endings: (*own(endings)[:3], 1 << 40, -7),
    "tokens of another vocabulary": lambda _: tuple(range(-50, 1_000_000, 997)),
}


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every step try what a hint proposes, however often it was wrong."""
    expected = HintLookup.expected
    monkeypatch.setattr(HintLookup, "expected", lambda self, n: 100.0 * n if expected(self, n) else 0.0)


def check(engine: EngineUnderTest, expected: Expected, hint: Callable[[Sequence[Ending]], Hint], **changes: Any) -> int:
    """Ask all at once, compare all bits, and return how many tokens of hints were tried."""
    ids = [(engine.submit(again(request, hint=hint(endings), **changes)), endings) for request, endings in expected]
    tried = 0
    for id_, endings in ids:
        done = engine.wait_for(id_)
        assert outcome(done) == endings
        assert done.lookup_tokens >= done.hint_tokens >= done.hint_accepted
        tried += done.hint_tokens
    return tried


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("name", HINTS)
def test_no_hint_changes_an_answer(undisturbed: Expected, name: str) -> None:
    with EngineUnderTest(gap_ms=60000) as engine:
        tried = check(engine, undisturbed, HINTS[name])
    assert (tried > 100) == (name not in ("no tokens at all", "tokens of another vocabulary"))


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("name", ["its own answer", "nearly its answer", "at random"])
def test_no_hint_changes_an_answer_alone_preempted_or_in_small_chunks(undisturbed: Expected, name: str) -> None:
    with EngineUnderTest(kv_cells=1024, n_ctx=1024, n_batch=64) as small:
        check(small, undisturbed, HINTS[name])
    with EngineUnderTest(n_batch=23, slots=1, threads=2) as alone:
        for pair in undisturbed:
            check(alone, [pair], HINTS[name])


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("cut", [1, 5, 17])
def test_no_hint_changes_how_an_answer_goes_on(undisturbed: Expected, cut: int) -> None:
    with EngineUnderTest() as engine:
        for name in ("its own answer", "nearly its answer", "at random"):
            for request, endings in undisturbed:
                had = tuple(e.tokens.part(0, cut) for e in endings)
                so_far = tuple(Tokens(token_ids=t.token_ids, logprobs=t.logprobs, top=t.top) for t in had)
                done = engine.answer(again(request, so_far=so_far, hint=HINTS[name](endings)))
                assert outcome(done) == endings


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("name", ["its own answer", "nearly its answer", "at random"])
def test_no_hint_changes_an_answer_about_images(tmp_path: Path, name: str) -> None:
    asked = with_images.requests()
    with with_images.seeing(tmp_path, gap_ms=60000) as engine:
        plain = [(request, outcome(engine.answer(again(request, lookup=False)))) for request in asked]
        engine.engine._cells.forget_prefixes()
        assert check(engine, plain, HINTS[name]) > 20


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_hints_at_random(undisturbed: Expected, engine: EngineUnderTest, data: st.DataObject) -> None:
    pick = st.integers(0, len(undisturbed) - 1)
    words = st.lists(st.integers(-5, 1 << 33), max_size=40)
    for at in data.draw(st.lists(pick, min_size=1, max_size=6)):
        request, endings = undisturbed[at]
        other = own(undisturbed[data.draw(pick)][1])
        start = data.draw(st.integers(0, max(0, len(other) - 1)))
        hint = (*data.draw(words), *other[start:], *data.draw(words))
        assert outcome(engine.answer(again(request, hint=hint))) == endings


@pytest.fixture(scope="module")
def engine() -> Iterator[EngineUnderTest]:
    with EngineUnderTest() as running:
        yield running


def test_a_right_hint_saves_steps_and_is_counted(engine: EngineUnderTest) -> None:
    request = ask("What comes?", regex="[a-z ]{400}", max_tokens=120, sampling=with_images.SAMPLED)
    engine.answer(ask("Count to twenty.", max_tokens=9))  # so that steps have costs
    before = engine.engine.stats().steps
    plain = engine.answer(request)
    between = engine.engine.stats().steps
    hinted = engine.answer(again(request, hint=own(plain.endings)))
    after = engine.engine.stats().steps
    assert hinted.endings == plain.endings
    assert isinstance(plain, Done)
    assert (plain.hint_tokens, plain.hint_accepted) == (0, 0)
    assert hinted.hint_tokens >= hinted.hint_accepted > 60
    assert after - between < 0.6 * (between - before)


def test_a_request_without_lookup_takes_no_hint(engine: EngineUnderTest) -> None:
    request = ask("Count to twenty.")
    plain = engine.answer(again(request, lookup=False))
    hinted = engine.answer(again(request, lookup=False, hint=own(plain.endings)))
    assert hinted == plain.__class__(id=hinted.id, endings=plain.endings)
