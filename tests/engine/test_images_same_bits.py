"""An answer about images is a function of its request too. Equality, not tolerance."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skills.skill_draft.engine.cells import CellLog
from skills.skill_draft.engine.lookup import Lookup
from skills.skill_draft.engine.messages import Admitted, Done, Ending, Piece, Request, Sampling, Tokens, Turn
from skills.skill_draft.engine.parking import Parking
from skills.skill_draft.engine.scheduler import Scheduler, Share
from skills.skill_draft.engine.slots import Owner, Slot
from skills.skill_draft.engine.tokens import Embedded

from .harness import ask
from .tower import WHAT, WHAT_TWO, Encoded, Seeing, about, large, samples

SAMPLED = Sampling(temperature=4.0, top_k=0, top_p=1.0, min_p=0.0, seed=7)
PENALISED = Sampling(temperature=2.0, seed=11, repeat_penalty=1.3, frequency_penalty=0.2, presence_penalty=0.1)
Expected = list[tuple[Request, tuple[Ending, ...]]]


def images() -> list[Encoded]:
    return [*samples(), large(0), large(3, 3, 7), large(5, 6, 2)]


def requests() -> list[Request]:
    """Return the requests whose answers must not depend on anything else."""
    one, two, *others = images()
    wide, high, flat = others[-3:]
    sampled: dict[str, Any] = {"sampling": SAMPLED, "top_logprobs": 5, "max_tokens": 24}
    talk = (
        Turn(role="system", content="Count to five. " * 6),
        Turn(role="user", parts=("Who are you? " * 5, one.image, WHAT)),
        Turn(role="assistant", content=one.answer),
        Turn(role="user", parts=(two.image, flat.image, "Where is it?")),
    )
    return [
        about(one, WHAT, top_logprobs=5),
        about(two, WHAT, top_logprobs=5),
        about(one, "Where is it?", top_logprobs=5),
        about("Say hello. ", one, WHAT, top_logprobs=5),
        about(one, two, WHAT_TWO, top_logprobs=5),
        about(two, one, WHAT_TWO, top_logprobs=5),
        about(two, two, WHAT_TWO, top_logprobs=5),
        about(wide, WHAT, **sampled),
        about(high, "red circle left " * 8, wide, WHAT_TWO, **sampled),
        about(wide, WHAT, sampling=PENALISED, top_logprobs=3, max_tokens=32),
        ask(turns=talk, **sampled),
        about(high, WHAT, num_candidates=3, **sampled),
        ask("Count to twenty.", top_logprobs=5),
        ask("What is in the image? " * 12, **sampled),
    ]


def again(request: Request, **changes: Any) -> Request:
    return dataclasses.replace(request, id=ask().id, **changes)


def outcome(done: Any) -> tuple[Ending, ...]:
    assert isinstance(done, Done), done
    return done.endings


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("rows")


def seeing(folder: Path, **config: Any) -> Seeing:
    return Seeing(folder, images(), **config)


@pytest.fixture(scope="module")
def undisturbed(folder: Path) -> Expected:
    """Run each request alone, in a new engine, without lookup."""
    pairs = []
    with seeing(folder) as engine:
        for request in requests():
            engine.engine._cells.forget_prefixes()
            pairs.append((request, outcome(engine.answer(again(request, lookup=False)))))
    return pairs


@pytest.fixture(scope="module")
def engine(folder: Path) -> Iterator[Seeing]:
    with seeing(folder) as running:
        yield running


def check(engine: Seeing, expected: Expected, **changes: Any) -> None:
    """All at once: each has its own answer."""
    ids = [(engine.submit(again(request, **changes)), endings) for request, endings in expected]
    for id_, endings in ids:
        assert outcome(engine.wait_for(id_)) == endings


def test_the_answers_say_what_is_seen(undisturbed: Expected) -> None:
    one, two = samples()[:2]
    texts = [endings[0].text for _, endings in undisturbed]
    assert texts[:2] == [one.answer, two.answer]
    assert texts[4:7] == [f"{a.answer} and {b.answer}" for a, b in ((one, two), (two, one), (two, two))]
    assert len(set(texts)) > 10


def test_from_the_prefix_cache_no_rows_are_asked_for(undisturbed: Expected, folder: Path) -> None:
    with seeing(folder) as engine:
        for request, endings in undisturbed:
            assert outcome(engine.answer(again(request))) == endings
        asked = len(engine.wanted)
        assert asked >= 8
        for request, endings in undisturbed:
            id_ = engine.submit(again(request))
            assert outcome(engine.wait_for(id_)) == endings
            admitted = engine.wait_for(id_, (Admitted,))
            assert admitted.cached_tokens == admitted.prompt_tokens - 1
        assert len(engine.wanted) == asked


def test_batched_with_images_and_text(undisturbed: Expected, engine: Seeing) -> None:
    for shift in range(3):
        check(engine, undisturbed[shift:] + undisturbed[:shift])
        engine.idle()
        engine.engine._cells.forget_prefixes()


@pytest.mark.parametrize("n_rows", [1, 2, 3, 5, 7, 8, 11, 19])
def test_in_chunks_of_any_size(
    undisturbed: Expected, folder: Path, monkeypatch: pytest.MonkeyPatch, n_rows: int
) -> None:
    plan = Scheduler.plan
    in_image = 0

    def short(self: Scheduler, **options: bool) -> list[Share]:
        nonlocal in_image
        shares = plan(self, **options)
        for i, share in enumerate(shares):
            if share.n > n_rows:
                shares[i] = Share.of(share.sequence, n_rows)
            run, slot = share.sequence.image, share.sequence.slot
            in_image += run is not None and slot is not None and slot.length + shares[i].n < run.end
        return shares

    monkeypatch.setattr(Scheduler, "plan", short)
    with seeing(folder) as engine:
        for request, endings in undisturbed:
            assert outcome(engine.answer(again(request))) == endings
    assert in_image >= 2, "no image was read in parts: the test shows nothing"


@pytest.mark.parametrize("config", [{"n_batch": 64, "slots": 3, "prefixes": 4, "threads": 2}, {"gap_ms": 0.5}])
def test_in_other_steps(undisturbed: Expected, folder: Path, config: dict[str, Any]) -> None:
    with seeing(folder, **config) as engine:
        check(engine, undisturbed)


def mid_image(tokens: Any, n: int) -> bool:
    """Return whether a cut after `n` tokens divides an image."""
    return bool(0 < n < len(tokens) and tokens[n] < 0 and tokens[n - 1] == tokens[n] + 1)


def count_moves(log: CellLog) -> list[tuple[int, bool]]:
    """Return a list that grows whenever a block moves: its tokens, and whether the slot ends in mid-image."""
    moved: list[tuple[int, bool]] = []
    original = log._move_block

    def counted(slots: list[Slot], slot: Slot, begin: int, end: int, taken: Any) -> None:
        moved.append((int((slot.tokens[begin:end] < 0).sum()), bool(slot.tokens[-1] < 0)))
        original(slots, slot, begin, end, taken)

    log._move_block = counted  # type: ignore[method-assign]
    return moved


def test_after_preemption_and_moves(undisturbed: Expected, folder: Path) -> None:
    """The cache holds a few of the sequences: the youngest are preempted, images move."""
    with seeing(folder, kv_cells=512, n_ctx=512, n_batch=64, gap_ms=2.0) as small:
        moved = count_moves(small.engine._cells)
        for turn in range(4):
            check(small, undisturbed[turn:] + undisturbed[:turn])
        assert sum(n for n, _ in moved) > 100, "no image moved: the test shows nothing"


def test_the_log_is_compacted_in_mid_image(
    undisturbed: Expected, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images are read three tokens at a time, and before each step the log is compacted."""
    plan = Scheduler.plan

    def short(self: Scheduler, **options: bool) -> list[Share]:
        shares = plan(self, **options)
        return [Share.of(s.sequence, 3) if s.n > 3 and s.sequence.image else s for s in shares]

    monkeypatch.setattr(Scheduler, "plan", short)
    with seeing(folder) as engine:
        log, calls = engine.engine._cells, 0
        moved = count_moves(log)

        def compact() -> None:
            nonlocal calls
            calls += 1
            log._compact(0 if calls % 2 else 1000)

        log.sweep = compact  # type: ignore[method-assign]
        for turn in range(2):
            check(engine, undisturbed[turn:] + undisturbed[:turn])
        assert sum(half for _, half in moved) > 5, "nothing was compacted in mid-image: the test shows nothing"


@pytest.mark.parametrize("parked_bytes", [1 << 26, 0])
def test_a_half_read_image_is_parked_and_restored_or_read_anew(
    undisturbed: Expected, folder: Path, monkeypatch: pytest.MonkeyPatch, parked_bytes: int
) -> None:
    """Every sequence is preempted in each of its images; without room for parked cells the image is read again."""
    with seeing(folder) as engine:
        inside = engine.engine
        inside._cells._parking = Parking(parked_bytes)
        plan, open_, restored = inside._scheduler.plan, inside._cells.open, 0
        halves = set()

        def opened(tokens: Any, owner: Owner) -> Slot | None:
            nonlocal restored
            slot = open_(tokens, owner)
            restored += slot is not None and mid_image(tokens, slot.length)
            return slot

        def preempting(**options: bool) -> list[Share]:
            shares = plan(**options)
            for i, share in enumerate(shares):
                run, slot = share.sequence.image, share.sequence.slot
                assert slot is not None
                if not run:
                    continue
                shares[i] = Share.of(share.sequence, 4)
                half = (share.sequence.request.id, share.sequence.candidate, run.start)
                if slot.length > run.start and half not in halves:
                    halves.add(half)
                    inside._scheduler.remove(share.sequence)
                    inside._scheduler.add(share.sequence)
                    inside._cells.set_aside(slot)
                    share.sequence.slot = None
                    return [s for j, s in enumerate(shares) if j != i]
            return shares

        monkeypatch.setattr(inside._scheduler, "plan", preempting)
        monkeypatch.setattr(inside._cells, "open", opened)
        check(engine, undisturbed)
        seen = sum(len(request.turns[-1].parts) > 1 for request, _ in undisturbed)
        assert len(halves) >= seen
        assert (restored >= seen) == (parked_bytes > 0)


def test_an_image_in_front_of_another_text_is_the_same_image(undisturbed: Expected, engine: Seeing) -> None:
    """And a second image of the same size in its place is another one."""
    one, two = samples()[:2]
    for first, second in ((one, two), (two, one), (one, one)):
        for text in ("Say hello.", "Count to five. ", ""):
            parts = [text, first, second, WHAT_TWO] if text else [first, second, WHAT_TWO]
            done = engine.answer(about(*parts, lookup=False))
            engine.engine._cells.forget_prefixes()
            assert outcome(engine.answer(about(*parts))) == outcome(done)
    assert outcome(engine.answer(again(undisturbed[0][0]))) == undisturbed[0][1]


@pytest.mark.parametrize("cut", [1, 3])
def test_continued(undisturbed: Expected, engine: Seeing, cut: int) -> None:
    engine.idle()
    engine.engine._cells.forget_prefixes()
    for request, endings in undisturbed:
        had = tuple(
            Tokens(token_ids=e.tokens.token_ids[:cut], logprobs=e.tokens.logprobs[:cut], top=e.tokens.top[:cut])
            for e in endings
        )
        assert outcome(engine.answer(again(request, so_far=had))) == endings


def test_wrong_speculative_tokens_in_steps_with_images(
    undisturbed: Expected, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are text rows of steps whose input is numbers."""
    monkeypatch.setattr(Lookup, "propose", lambda _, n: [7 + i for i in range(n)])
    monkeypatch.setattr(Lookup, "expected", lambda _, n: 100.0 * n)
    with seeing(folder, gap_ms=60000) as engine:
        context = engine.loaded.context
        decode, mixed = context.decode_embedded, 0

        def counted(step: Embedded) -> Any:
            nonlocal mixed
            mixed += len(np.unique(context.seq_ids[: len(step.rows)])) > 1
            return decode(step)

        monkeypatch.setattr(context, "decode_embedded", counted)
        for _ in range(2):
            talking = engine.submit(ask("Count to twenty.", max_tokens=500, grammar='root ::= "a" root'))
            engine.wait_for(talking, (Piece,))
            check(engine, undisturbed)
            engine.cancel(talking)
            engine.idle()
            engine.engine._cells.forget_prefixes()
        assert engine.engine.stats().lookup_tokens > 500
    assert mixed > 20, "no step had images and others: the test shows nothing"


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_random_schedules(undisturbed: Expected, churned: Seeing, data: st.DataObject) -> None:
    picks = data.draw(st.lists(st.integers(0, len(undisturbed) - 1), min_size=2, max_size=12))
    waiting = []
    for pick in picks:
        request, endings = undisturbed[pick]
        churned.delay_s = data.draw(st.sampled_from([0.0, 0.001, 0.01]))
        id_ = churned.submit(again(request, lookup=data.draw(st.booleans())))
        time.sleep(data.draw(st.sampled_from([0, 0, 0.001, 0.005])))
        if data.draw(st.integers(0, 3)):
            waiting.append((id_, endings))
        else:
            churned.cancel(id_)
    for id_, endings in waiting:
        assert outcome(churned.wait_for(id_)) == endings
    churned.idle()
    cells = churned.engine._cells
    assert not cells.running
    assert not churned.engine._scheduler.running
    assert len(cells._free_ids) + len(cells.prefixes) == churned.loaded.sizes.n_slots - 2, "a slot leaked"
    assert cells.owned() <= cells.used <= cells.n_cells


@pytest.fixture(scope="module")
def churned(folder: Path) -> Iterator[Seeing]:
    with seeing(folder, kv_cells=768, n_ctx=512, slots=6, prefixes=6, n_batch=128, gap_ms=2.0) as running:
        yield running
