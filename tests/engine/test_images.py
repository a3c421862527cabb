"""The engine's promises about images apart from the bits: what is seen, what is asked for and when, what is refused."""

from __future__ import annotations

import dataclasses
import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skills.skill_draft.engine.binding import Model, ModelParams
from skills.skill_draft.engine.images import ImageIds, OutOfIdsError, PromptImages
from skills.skill_draft.engine.lookup import AcceptanceRates, Lookup
from skills.skill_draft.engine.messages import (
    Admitted,
    Done,
    Failed,
    FailureKind,
    Image,
    Piece,
    Rows,
    Sampling,
    Turn,
    WantRows,
)
from skills.skill_draft.engine.prompt import IMAGE_PLACE, PromptBuilder, PromptError
from skills.skill_draft.engine.sampling import Sampler, Scratch
from skills.skill_draft.engine.tokens import Embedded

from .harness import TINY, EngineUnderTest, ask
from .tower import ROW_WIDTH, WHAT, WHAT_TWO, Seeing, about, large, samples

F16 = TINY.parent / "reference" / "tiny-qwen3vl-f16.gguf"
REFERENCE = TINY.parent / "tiny-qwen3vl-ref-logits.json"
LONG = "Count to five. Who are you? Say hello. " * 20


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Seeing]:
    with Seeing(tmp_path, [*samples(), large(0), large(3, 3, 7)]) as running:
        yield running


@pytest.fixture(scope="module")
def model() -> Model:
    return Model(TINY, ModelParams())


# --- what is seen ---


def log_softmax(logits: Any) -> np.ndarray[Any, np.dtype[np.float64]]:
    values = np.asarray(logits, np.float64)
    shifted: np.ndarray[Any, np.dtype[np.float64]] = values - values.max()
    normed: np.ndarray[Any, np.dtype[np.float64]] = shifted - np.log(np.exp(shifted).sum())
    return normed


def test_log_probabilities_are_those_of_transformers(tmp_path: Path) -> None:
    """With positions in one dimension they differ by 0.1 and more."""
    reference = json.loads(REFERENCE.read_text(encoding="utf-8"))
    with Seeing(tmp_path, samples(), model=F16) as engine:
        n_vocab = engine.loaded.model.vocab.n_tokens
        for sample in samples():
            done = engine.answer(about(sample, WHAT, max_tokens=1, top_logprobs=n_vocab))
            got = np.full(n_vocab, np.nan)
            for token in done.endings[0].tokens.top[0]:
                got[token.token_id] = token.logprob
            assert np.abs(got - log_softmax(reference[f"{sample.name}.png"])).max() < 0.01
    assert len(reference) == 12


def test_each_of_two_images_is_seen(engine: Seeing) -> None:
    """With positions in one dimension a tenth of the answers is right."""
    pairs = list(itertools.permutations(samples()[::2], 2))
    ids = [(engine.submit(about(one, two, WHAT_TWO)), one, two) for one, two in pairs]
    answers = [(engine.wait_for(id_).endings[0].text, f"{one.answer} and {two.answer}") for id_, one, two in ids]
    assert sum(got == right for got, right in answers) >= 0.95 * len(pairs)


def test_every_sample_is_seen_for_what_and_where_it_is(engine: Seeing) -> None:
    for sample in samples():
        assert engine.answer(about(sample, WHAT)).endings[0].text == sample.answer
        assert engine.answer(about(sample, "Where is it?")).endings[0].text == sample.name.split("-")[2]


# --- what is asked for ---


def test_rows_are_asked_for_once_and_given_back_once_read(engine: Seeing) -> None:
    """Several candidates share them, and a second question about an image in the cache needs none."""
    image = samples()[0]
    done = engine.answer(about(image, WHAT, num_candidates=4, sampling=Sampling(temperature=3.0)))
    assert [(w.id, w.image) for w in engine.wanted] == [(done.id, image.image)]
    assert [(r.id, r.key) for r in engine.read] == [(done.id, image.image.key)]
    second = engine.submit(about(image, "Where is it?"))
    assert isinstance(engine.wait_for(second), Done)
    assert engine.wait_for(second, (Admitted,)).cached_tokens >= image.image.n_tokens
    assert len(engine.wanted) == 1


def test_images_of_a_request_are_asked_for_in_order_one_ahead(engine: Seeing) -> None:
    engine.holds_back = True
    shown = [samples()[0], samples()[1], samples()[0], samples()[2]]
    id_ = engine.submit(about(*shown, WHAT_TWO))
    for i, image in enumerate((shown[0], shown[1], shown[3])):
        wanted = engine.wait_for(id_, (WantRows,), count=i + 1)
        time.sleep(0.05)
        assert [w.image.key for w in engine.wanted] == [*(w.image.key for w in engine.wanted[:i]), image.image.key]
        engine.bring(wanted)
    assert isinstance(engine.wait_for(id_), Done)


def test_while_a_request_waits_for_rows_its_text_is_read_and_others_are_answered(engine: Seeing) -> None:
    engine.holds_back = True
    asked = [about(f"{i} {LONG}", samples()[i], WHAT) for i in range(3)]
    waiting = [engine.submit(request) for request in asked]
    for id_ in waiting:
        engine.wait_for(id_, (WantRows,))
    for _ in range(3):
        assert engine.answer(ask("Say hello.")).endings[0].text == "hello"
    read = {s.request.id: s.pending for s in engine.engine._scheduler.running}
    assert all(read[id_] < 40 for id_ in waiting), "only the image and what follows it is pending"
    steps = engine.engine.stats().steps
    begun = time.process_time()
    time.sleep(0.6)
    assert engine.engine.stats().steps == steps, "no empty steps"
    assert time.process_time() - begun < 0.3, "the loop does not spin"
    for wanted in list(engine.wanted):
        engine.bring(wanted)
    endings = [engine.wait_for(id_).endings for id_ in waiting]
    engine.idle()
    engine.engine._cells.forget_prefixes()
    engine.holds_back = False
    for request, ending in zip(asked, endings, strict=True):
        assert engine.answer(dataclasses.replace(request, id=ask().id)).endings == ending


def test_requests_that_wait_for_rows_keep_no_place_from_others(tmp_path: Path) -> None:
    with Seeing(tmp_path, samples(), slots=2) as engine:
        engine.holds_back = True
        waiting = [engine.submit(about(samples()[i], WHAT)) for i in range(4)]
        for id_ in waiting:
            engine.wait_for(id_, (WantRows,))
        assert engine.answer(ask("Say hello.")).endings[0].text == "hello"
        for wanted in list(engine.wanted):
            engine.bring(wanted)
        for i, id_ in enumerate(waiting):
            assert engine.wait_for(id_).endings[0].text == samples()[i].answer


def test_the_wait_for_rows_makes_no_deadline_look_unreachable(engine: Seeing) -> None:
    engine.answer(ask("Say hello."))
    engine.holds_back = True
    id_ = engine.submit(about(large(0), WHAT, deadline=time.monotonic() + 5, progress=True))
    wanted = engine.wait_for(id_, (WantRows,))
    engine.engine._threads.costs.observe(512, 600_000, time.monotonic())  # as if prefill took ten minutes
    time.sleep(0.6)
    engine.engine._threads.costs.observe(512, 10, time.monotonic())
    engine.bring(wanted)
    assert isinstance(engine.wait_for(id_), Done)


def test_who_cancels_while_waiting_leaves_nothing(engine: Seeing) -> None:
    engine.holds_back = True
    id_ = engine.submit(about(samples()[0], WHAT))
    wanted = engine.wait_for(id_, (WantRows,))
    engine.cancel(id_)
    engine.idle()
    engine.bring(wanted)  # too late
    assert engine.answer(ask("Say hello.")).endings[0].text == "hello"
    assert not engine.engine._cells.running


def test_a_preempted_request_gives_rows_back_and_asks_again(tmp_path: Path) -> None:
    """Its cells are not parked here, and there is no room for two of them to the end."""
    shown = [large(i, 8, 8) for i in range(2)]
    with Seeing(tmp_path, shown, kv_cells=256, n_ctx=256) as engine:
        engine.engine._cells._parking.room = 0
        engine.holds_back = True
        writes: dict[str, Any] = {"grammar": 'root ::= "a" root', "max_tokens": 120}
        first, second = (engine.submit(about(image, WHAT, **writes)) for image in shown)
        for id_ in (first, second):
            engine.bring(engine.wait_for(id_, (WantRows,)))
        engine.holds_back = False
        assert all(isinstance(engine.wait_for(id_), Done) for id_ in (first, second))
        assert [w.id for w in engine.wanted] == [first, second, second]
        assert sorted(r.id for r in engine.read) == [first, second, second]


@pytest.mark.parametrize("offset", [-8, 1 << 40])
def test_rows_that_are_not_there_are_the_engines_fault(engine: Seeing, offset: int) -> None:
    engine.holds_back = True
    id_ = engine.submit(about(samples()[0], WHAT))
    engine.wait_for(id_, (WantRows,))
    engine.engine.inbox.put(Rows(id=id_, key=samples()[0].image.key, offset=offset))
    failed = engine.wait_for(id_)
    assert isinstance(failed, Failed)
    assert failed.kind is FailureKind.INTERNAL


def test_only_steps_with_images_have_rows_for_input_and_each_has_one_image(
    engine: Seeing, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = engine.loaded.context
    decode, seen = context.decode_embedded, list[int]()

    def counted(step: Embedded) -> Any:
        in_image = context.tokens[: len(step.rows)] < 0
        seen.append(len(np.unique(context.seq_ids[: len(step.rows)][in_image])))
        return decode(step)

    monkeypatch.setattr(context, "decode_embedded", counted)
    engine.holds_back = True
    ids = [engine.submit(about(sample, WHAT)) for sample in samples()]
    for id_ in ids:
        engine.wait_for(id_, (WantRows,))
    for wanted in list(engine.wanted):
        engine.bring(wanted)
    assert all(isinstance(engine.wait_for(id_), Done) for id_ in ids)
    assert set(seen) == {1}
    assert len(seen) >= len(ids)
    seen.clear()
    assert isinstance(engine.answer(about(samples()[0], "Where is it?")), Done)
    assert isinstance(engine.answer(ask("Count to twenty.")), Done)
    assert not seen


# --- what is refused ---


def test_a_model_that_reads_no_images_says_so(tmp_path: Path) -> None:
    turns = (Turn(role="system", content="x"), Turn(role="user", parts=("a", samples()[0].image)))
    with EngineUnderTest() as engine:  # without shared memory for rows
        assert engine.loaded.row_width == ROW_WIDTH
        failed = engine.answer(ask(turns=turns))
    assert isinstance(failed, Failed)
    assert (failed.kind, failed.field) == (FailureKind.INVALID, "messages[1].parts[1].image")
    with Seeing(tmp_path, [], max_image_tokens=8) as engine:
        failed = engine.answer(ask(turns=turns))
    assert failed.field == "messages[1].parts[1].image"
    assert "has 9 image tokens; at most 8 are read: lower max_tokens" in failed.message


def test_image_tokens_count_as_context(tmp_path: Path) -> None:
    with Seeing(tmp_path, samples(), n_ctx=256) as engine:
        fits = engine.answer(about(*samples()[:12], WHAT_TWO))
        assert isinstance(fits, Done)
        failed = engine.answer(about(*samples(), *samples(), WHAT_TWO))
    assert isinstance(failed, Failed)
    assert "tokens long with its template" in failed.message


def prompt_of(model: Model, *parts: str | Image) -> list[int]:
    return PromptBuilder(model).build(ask(turns=(Turn(role="user", parts=parts),)))


def test_what_a_user_types_is_never_an_image(model: Model) -> None:
    image = samples()[0].image
    controls = [model.vocab.special_texts[f"<|vision_{name}|>"] for name in ("start", "end")]
    for typed in (IMAGE_PLACE, f"<|vision_start|>{IMAGE_PLACE}<|vision_end|>", "<|image_", "pad|>", "<__media__>"):
        tokens = prompt_of(model, typed, image, typed)
        assert sum(token < 0 for token in tokens) == image.n_tokens
        assert [token for token in tokens if token in controls] == controls
        start = tokens.index(controls[0])
        assert tokens[start + 1] < 0
        assert tokens[start + image.n_tokens + 1] == controls[1]
        alone = prompt_of(model, typed)
        assert all(token >= 0 and token not in controls for token in alone)
    assert prompt_of(model, "<|image_", "pad|>") == prompt_of(model, IMAGE_PLACE)


def test_parts_without_images_are_their_text(model: Model) -> None:
    plain = PromptBuilder(model).build(ask(turns=(Turn(role="user", content="Say hello."),)))
    assert prompt_of(model, "Say ", "hello.") == plain


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{{ m.content if m.content is string else 'x' }}{% endfor %}",
        "{{ messages[0].content }}",
        "{% for m in messages %}<|image_pad|><|image_pad|>{% endfor %}",
    ],
)
def test_a_template_without_a_place_for_each_image_is_refused(
    model: Model, monkeypatch: pytest.MonkeyPatch, template: str
) -> None:
    monkeypatch.setattr(model, "chat_template", template)
    with pytest.raises(PromptError, match=r"has places for \d of the 1 images"):
        prompt_of(model, "What is this?", samples()[0].image, "x")


def test_which_models_read_images(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    assert PromptBuilder(model).has_places
    monkeypatch.setattr(model, "chat_template", "{{ messages[0].content }}")
    assert not PromptBuilder(model).has_places


# --- ids and positions ---


def image_of(i: int, across: int = 2, down: int = 2) -> Image:
    return Image(key=i.to_bytes(32, "big"), across=across, down=down)


@given(st.lists(st.integers(0, 9), max_size=60))
def test_no_id_stands_for_two_images(order: list[int]) -> None:
    ids, owners = ImageIds(kept=4), dict[int, int]()
    for i in order:
        run = ids.of(image_of(i, 1 + i, 2))
        assert len(run) == 2 * (1 + i)
        assert all(owners.setdefault(id_, i) == i for id_ in run)
        assert all(owners.get(id_, i) == i for id_ in (run[0] + 1, run[-1] - 1)), "no two runs are adjacent"


def test_a_process_without_ids_left_ends() -> None:
    ids = ImageIds(last=-12)
    assert (list(ids.of(image_of(1))), list(ids.of(image_of(2)))) == ([-2, -3, -4, -5], [-7, -8, -9, -10])
    with pytest.raises(OutOfIdsError):
        ids.of(image_of(3))
    assert ids.of(image_of(1)) == range(-2, -6, -1)


@settings(max_examples=200)
@given(data=st.data())
def test_positions_are_those_of_m_rope(data: st.DataObject) -> None:
    grids = data.draw(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(0, 3)), max_size=4))
    ids, tokens, images, expected, position = ImageIds(), [1, 2], [], [(0, 0, 0), (1, 1, 1)], 2
    for i, (across, down, n_text) in enumerate(grids):
        images.append(image_of(i % 2, across, down))
        tokens += [*ids.of(images[-1]), *range(n_text)]
        expected += [(position, position + row, position + column) for row in range(down) for column in range(across)]
        position += max(across, down)
        expected += [(position + j,) * 3 for j in range(n_text)]
        position += n_text
    expected += [(position + j,) * 3 for j in range(6)]
    seen = PromptImages(tokens, images)
    start = data.draw(st.integers(0, len(tokens) + 2))
    n = data.draw(st.integers(0, len(tokens) + 6 - start))
    assert seen.positions(start, n).T.tolist() == [list(p) for p in expected[start : start + n]]


# --- where tokens are read as text ---


def test_penalties_skip_images(model: Model) -> None:
    vocab, sampling = model.vocab, Sampling(temperature=0, repeat_penalty=1.5, presence_penalty=0.5)
    logits = np.linspace(1, 2, vocab.n_tokens, dtype=np.float32)
    choose = Sampler(vocab, Scratch(vocab.n_tokens), sampling).choose
    last = vocab.n_tokens - 1
    assert choose(logits, [5, 6, *range(-2, -40, -1), 7], 0).token == last, "-2 is not the last but one"
    assert choose(logits, [*range(-2, -40, -1), last], 0).token == last - 1
    assert choose(logits, list(range(-2, -99, -1)), 0).token == last


def test_lookup_neither_compares_nor_proposes_images() -> None:
    def proposed(*tokens: int) -> list[int]:
        text = list(tokens[:-1])
        lookup = Lookup(text, AcceptanceRates())
        text.append(tokens[-1])
        lookup.push()
        return lookup.propose(8)

    assert proposed(1, 2, 3, 4, 5, -2, -3, 9, 1, 2, 3) == [4, 5]
    assert proposed(1, 2, 3, -2, -3, 9, 1, 2, 3) == []
    assert proposed(1, -2, -3, 4, 1, -2, -3) == []
    assert proposed(-2, -3, -4, 7, 8, -2, -3, -4) == []


def test_lookup_and_penalties_after_an_image(engine: Seeing) -> None:
    """An image among the last 64 tokens, and text that repeats what stands before one."""
    fields: dict[str, Any] = {"max_tokens": 40, "sampling": Sampling(temperature=0.8, seed=3, repeat_penalty=1.2)}
    parts = (samples()[0], "What is in the image? ", samples()[1], "What is in the image? ", samples()[2], WHAT)
    done = engine.answer(about(*parts, **fields))
    assert isinstance(done, Done)
    assert done.endings == engine.answer(about(*parts, lookup=False, **fields)).endings


def test_an_answer_about_an_image_streams(engine: Seeing) -> None:
    id_ = engine.submit(about(samples()[0], WHAT))
    done = engine.wait_for(id_)
    assert "".join(piece.text for piece in engine.pieces(id_)) == done.endings[0].text
    first = next(i for i, event in enumerate(engine.events[id_]) if isinstance(event, Piece))
    assert any(isinstance(event, WantRows) for event in engine.events[id_][:first])
